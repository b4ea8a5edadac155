//! What is wrong with a configuration file, and what to try: a key that is nearly right, or in the wrong section.

/// The line a byte is on, from 1.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}

/// serde says "unknown field `X`, expected one of `A`, `B`": says what to try instead of the whole list.
pub(super) fn explain(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else { return message.to_string() };
    let Some((key, known)) = rest.split_once('`') else { return message.to_string() };
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    if let Some((section, _)) =
        SECTIONS.iter().find(|(_, keys)| keys.contains(&key) && !known.contains(&key))
    {
        return format!("unknown key `{key}` here: it belongs under [{section}]");
    }
    if let Some(near) = known.iter().find(|k| close(key, k)) {
        return format!("unknown key `{key}`: did you mean `{near}`?");
    }
    format!("unknown key `{key}`: known here are {}", known.join(", "))
}

/// Keys people look for in the wrong place.
const SECTIONS: [(&str, &[&str]); 4] = [
    (
        "policy",
        &[
            "mode",
            "max-rung",
            "remnants-alone",
            "clean-remnants",
            "quarantine",
            "term-grace-ms",
            "unit",
            "cni-links",
            "lease-stale-ms",
            "confirm-ms",
            "reboots-a-day",
            "see-through",
            "lifeline",
        ],
    ),
    ("tls", &["ca", "cert", "key", "denied-serials", "denied"]),
    ("metrics", &["textfile"]),
    (
        "limits",
        &[
            "connections",
            "reserved",
            "handshakes",
            "handshakes-per-source",
            "handshake-ms",
            "message-bytes",
        ],
    ),
];

/// Differs in the kind of dash, or in one letter added, dropped, changed or swapped with its neighbour.
fn close(a: &str, b: &str) -> bool {
    let a = a.to_ascii_lowercase().replace('_', "-");
    if a == b {
        return true;
    }
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() < 4 || a.len().abs_diff(b.len()) > 1 {
        return false;
    }
    let front = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (ra, rb) = (&a[front..], &b[front..]);
    match (ra, rb) {
        ([_, x @ ..], [_, y @ ..]) if x == y => true,
        ([x0, x1, x @ ..], [y0, y1, y @ ..]) if x0 == y1 && x1 == y0 && x == y => true,
        ([_, x @ ..], y) if x == y => true,
        (x, [_, y @ ..]) if x == y => true,
        _ => false,
    }
}
