//! A daemon's HTTP answer, whole or not at all.

/// An answer in chunks, as Go's server writes it.
#[cfg(test)]
pub(super) const ON: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
    29\r\n{\"ExitNodeID\":\"n1\",\"ExitNodeIP\":\"\",\"Route\r\nF\r\nAll\":true,\"X\":1\r\n1\r\n}\r\n0\r\n\r\n";

/// Is the answer complete, so that there is no need to wait for the end of the connection?
pub(super) fn is_whole(answer: &[u8]) -> bool {
    head(answer).is_some_and(|(head, body)| match header(&head, "content-length") {
        Some(len) => len.parse().is_ok_and(|len: usize| body.len() >= len),
        None => false,
    })
}

pub(super) fn head(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&answer[..end]).into_owned(), &answer[end + 4..]))
}

pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|l| {
        let (n, v) = l.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

/// Status and body of a whole answer. Go's server sends larger ones in chunks.
pub(super) fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let (head, body) = head(answer)?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if header(&head, "transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return Some((status, dechunk(body)?));
    }
    match header(&head, "content-length") {
        Some(len) => Some((status, body.get(..len.parse().ok()?)?.to_vec())),
        None => Some((status, body.to_vec())),
    }
}

fn dechunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        let rest = body.get(end + 2..)?;
        whole.extend_from_slice(rest.get(..size)?);
        body = rest.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;

    #[test]
    fn any_answer_is_whole_or_none() {
        Fuzz::new("answer").folder("tests/corpus/answer", |_| true).run(|bytes| {
            let Some((_, body)) = parse(bytes) else { return };
            assert!(body.len() <= bytes.len());
            assert!(!is_whole(bytes) || head(bytes).is_some());
        });
    }

    #[test]
    fn an_answer_that_is_cut_off_is_no_answer() {
        assert!(parse(&ON.as_bytes()[..ON.len() - 12]).is_none());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}").is_none());
        assert!(
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n")
                .is_none()
        );
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n\r\n{}"), Some((200, b"{}".to_vec())));
    }
}
