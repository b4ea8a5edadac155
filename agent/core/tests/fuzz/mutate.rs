//! How an input is made from others: by what goes wrong on disks and wires, and by what somebody would try on purpose.

use super::dice::Dice;

type Corpus = [(String, Vec<u8>)];

/// Values at which lengths and counts break.
const EDGES: [u32; 10] = [0, 1, 3, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];
/// Bytes that mean something to one of the languages.
const MARKS: &[u8] = b"\0\xff\xc3\n\r\t \"'\\{}[](),:;=#-*!/0";
/// Numbers as somebody writes them.
const NUMBERS: [&str; 9] =
    ["0", "-1", "255", "256", "65536", "4294967295", "4294967296", "18446744073709551616", "1e999"];

/// An input that is one of the corpus no more.
pub fn one(dice: &mut Dice, corpus: &Corpus, longest: usize) -> Vec<u8> {
    let mut bytes = whole_or_window(dice, corpus);
    for _ in 0..=dice.roll(6) {
        let at = place(dice, bytes.len());
        let len = place(dice, (bytes.len() - at).min(64));
        match dice.roll(13) {
            0 => flip(dice, &mut bytes),
            1 => put(&mut bytes, at, 0, &[*dice.pick(MARKS)]),
            2 => put(&mut bytes, at, 1, &[*dice.pick(MARKS)]),
            3 => put(&mut bytes, at, len, &[]),
            4 => {
                let piece = bytes[at..at + len].to_vec();
                let to = place(dice, bytes.len());
                put(&mut bytes, to, 0, &piece);
            }
            5 => bytes.truncate(at),
            6 => put(&mut bytes, at, 0, &word(dice, corpus)),
            7 => swap_lines(dice, &mut bytes),
            8 => drop_line(dice, &mut bytes),
            9 => number(dice, &mut bytes),
            10 => edge(dice, &mut bytes, at),
            11 => {
                // A piece many times over: what takes time or room by the square of it shows here.
                let piece = bytes[at..at + len].to_vec();
                let times = (1 << dice.roll(13)).min(longest / piece.len().max(1));
                put(&mut bytes, at, 0, &piece.repeat(times));
            }
            _ => {
                let other = whole_or_window(dice, corpus);
                let from = place(dice, other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
        }
        bytes.truncate(longest);
    }
    bytes
}

/// Up to and with the end.
fn place(dice: &mut Dice, len: usize) -> usize {
    dice.roll(len as u64 + 1) as usize
}

fn put(bytes: &mut Vec<u8>, at: usize, instead_of: usize, new: &[u8]) {
    let end = (at + instead_of).min(bytes.len());
    bytes.splice(at..end, new.iter().copied());
}

/// One of the corpus, or some lines of one: a change to a short input is more likely to matter.
fn whole_or_window(dice: &mut Dice, corpus: &Corpus) -> Vec<u8> {
    let bytes = &dice.pick(corpus).1;
    if dice.roll(3) == 0 || bytes.len() < 2_000 {
        return bytes.clone();
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    let from = place(dice, lines.len() - 1);
    let many = 1 + place(dice, 40);
    // A head says what the rest is, in most languages.
    let head = lines.iter().take(if from > 0 { 2 } else { 0 });
    head.chain(lines.iter().skip(from).take(many)).copied().collect::<Vec<_>>().concat()
}

fn flip(dice: &mut Dice, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        let at = place(dice, bytes.len() - 1);
        bytes[at] ^= 1 << dice.roll(8);
    }
}

/// A word that stands somewhere in the corpus.
fn word(dice: &mut Dice, corpus: &Corpus) -> Vec<u8> {
    let bytes = &dice.pick(corpus).1;
    let from = place(dice, bytes.len().saturating_sub(1));
    let rest = &bytes[from..];
    let start = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(0);
    let rest = &rest[start..];
    let end = rest.iter().skip(1).position(u8::is_ascii_whitespace).map_or(rest.len(), |e| e + 2);
    rest[..end.min(rest.len()).min(200)].to_vec()
}

fn lines_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

fn swap_lines(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let mut lines = lines_of(bytes);
    if lines.len() > 1 {
        let (a, b) = (place(dice, lines.len() - 1), place(dice, lines.len() - 1));
        lines.swap(a, b);
        *bytes = lines.concat();
    }
}

fn drop_line(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let mut lines = lines_of(bytes);
    if !lines.is_empty() {
        lines.remove(place(dice, lines.len() - 1));
        *bytes = lines.concat();
    }
}

/// Another number in the place of one.
fn number(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let from = place(dice, bytes.len());
    let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else {
        return;
    };
    let len = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let new = *dice.pick(&NUMBERS);
    put(bytes, start, len, new.as_bytes());
}

/// A value that breaks lengths, as two or four bytes of this machine's order.
fn edge(dice: &mut Dice, bytes: &mut Vec<u8>, at: usize) {
    let value = dice.pick(&EDGES).to_ne_bytes();
    let wide = if dice.roll(2) == 0 { 2 } else { 4 };
    // Fields of messages lie at multiples of two.
    let at = at & !1;
    let value = if cfg!(target_endian = "little") { &value[..wide] } else { &value[4 - wide..] };
    put(bytes, at, wide, value);
}
