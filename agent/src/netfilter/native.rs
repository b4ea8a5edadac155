//! The language of `nft list`, read whole or not at all.

use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Chain, Dialect, NfRule, NfTable, Shared};

use super::{INET, ReadError, nft_family};

/// Reads the output of `nft -n -a -s list table` (or `list ruleset`), the tables of one family.
///
/// # Errors
/// When a table is incomplete.
pub fn parse_nft(text: &str, family: Family) -> Result<Vec<NfTable>, ReadError> {
    parse(text, nft_family(family), family)
}

/// The tables of nftables' `inet` family in the same output; what they say of their own family means nothing.
///
/// # Errors
/// When a table is incomplete.
pub fn parse_inet(text: &str) -> Result<Vec<NfTable>, ReadError> {
    parse(text, INET, Family::V4)
}

fn parse(text: &str, wanted: &str, family: Family) -> Result<Vec<NfTable>, ReadError> {
    let mut tables: Vec<NfTable> = Vec::new();
    let mut lines = text.lines();
    let bad = |line: &str, what: &str| ReadError::Malformed { why: format!("{what}: {line}") };
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let head = line
            .strip_prefix("table ")
            .and_then(|l| l.split_once('{'))
            .ok_or_else(|| bad(line, "outside a table"))?;
        let (kind, name) =
            head.0.trim().split_once(' ').ok_or_else(|| bad(line, "a table without a name"))?;
        let mut table = NfTable {
            backend: Backend::Nft,
            family,
            name: name.to_owned(),
            dialect: Dialect::Nft,
            chains: Shared::default(),
            rules: Shared::default(),
        };
        loop {
            let line = lines.next().ok_or_else(|| bad(name, "cut short in table"))?;
            let inner = line.trim();
            if inner == "}" {
                break;
            }
            if let Some(rest) = inner.strip_prefix("chain ") {
                let chain = rest.split_whitespace().next().unwrap_or_default();
                read_chain(chain, &mut lines, &mut table)?;
            } else if let Some((_, rest)) = inner.split_once('{')
                && !rest.contains('}')
            {
                skip_block(name, &mut lines)?;
            }
        }
        if kind == wanted {
            tables.push(table);
        }
    }
    Ok(tables)
}

/// Sets, maps, flowtables: their elements may have blocks of their own.
fn skip_block(name: &str, lines: &mut std::str::Lines<'_>) -> Result<(), ReadError> {
    let mut depth = 1i32;
    while depth > 0 {
        let line = lines
            .next()
            .ok_or_else(|| ReadError::Malformed { why: format!("cut short in table: {name}") })?;
        for c in line.chars() {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
        }
    }
    Ok(())
}

fn read_chain(
    name: &str,
    lines: &mut std::str::Lines<'_>,
    table: &mut NfTable,
) -> Result<(), ReadError> {
    let cut = || ReadError::Malformed { why: format!("cut short in chain: {name}") };
    let mut chain = Chain { name: name.to_owned(), policy: None, hook: None };
    let mut rules = Vec::new();
    let mut pending = Statement::default();
    loop {
        let line = lines.next().ok_or_else(cut)?.trim();
        if pending.text.is_empty() {
            if line == "}" {
                break;
            }
            if line.starts_with("type ") && line.ends_with(';') {
                let (hook, policy) = line.split_once(';').unwrap_or((line, ""));
                chain.hook = Some(hook.to_owned());
                chain.policy = policy
                    .trim()
                    .strip_prefix("policy ")
                    .map(|p| p.trim_end_matches(';').to_uppercase());
                continue;
            }
            if line.is_empty() || line.starts_with("comment ") {
                continue;
            }
        }
        // A rule ends with its handle; a long set inside it may take several lines.
        let ended = line.rsplit_once("# handle ");
        let ended = ended.and_then(|(spec, handle)| Some((spec, handle.parse::<u64>().ok()?)));
        pending.add(ended.map_or(line, |(spec, _)| spec));
        let bad = |what: &str| ReadError::Malformed {
            why: format!("{what} in chain {name}: {}", pending.text),
        };
        match (ended, pending.open) {
            (Some((_, handle)), 0) => {
                let spec = squeezed(&pending.text);
                rules.push(NfRule { chain: name.to_owned(), spec, handle: Some(handle) });
                pending = Statement::default();
            }
            // Rules within a rule (`jump { … }`) have handles of their own.
            (Some(_), _) => return Err(bad("a rule of several")),
            // What is neither a rule nor the first lines of one would take the next rule along, or the next chain.
            (None, ..=0) => return Err(bad("a rule without a handle")),
            (None, _) => {}
        }
    }
    table.chains.push(chain);
    table.rules.append(&mut rules);
    Ok(())
}

/// What has come of a rule, read once however many lines it has.
#[derive(Default)]
struct Statement {
    text: String,
    /// How many braces are open at its end; what is quoted opens and closes none.
    open: i64,
    quoted: bool,
}

impl Statement {
    fn add(&mut self, line: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(line);
        for c in line.chars() {
            match c {
                '"' => self.quoted = !self.quoted,
                '{' if !self.quoted => self.open += 1,
                '}' if !self.quoted => self.open -= 1,
                _ => {}
            }
        }
    }
}

/// With one space where nft prints several: an expression it has no words for (a comment match) leaves a hole. What is quoted
/// stays as it is.
fn squeezed(spec: &str) -> String {
    let mut out = String::with_capacity(spec.len());
    let mut quoted = false;
    for c in spec.trim().chars() {
        quoted ^= c == '"';
        if quoted || c != ' ' || !out.ends_with(' ') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;

    const NFT: &str = "# Warning: table ip filter is managed by iptables-nft, do not touch!\n\
        table ip filter { # handle 1\n\tset myset { # handle 10\n\t\ttype ipv4_addr\n\t\telements = { 1.2.3.4,\n\
        \t\t\t     1.2.3.6 }\n\t}\n\n\tchain ts-input { # handle 1\n\
        \t\tip saddr 1.2.3.4  counter accept # handle 4\n\
        \t\ttcp dport { 1, 2,\n\t\t\t 443 } accept comment \"x  # handle y\" # handle 9\n\t}\n\n\
        \tchain INPUT { # handle 2\n\t\ttype filter hook input priority 0; policy accept;\n\
        \t\tcounter jump ts-input # handle 3\n\t}\n}\n";

    #[test]
    fn a_rule_without_a_handle_does_not_take_the_next_chain_along() {
        let torn = NFT.replace("counter accept # handle 4", "counter accept");
        let why = parse_nft(&torn, Family::V4).unwrap_err().to_string();
        assert!(why.contains("without a handle in chain ts-input"), "{why}");
    }

    #[test]
    fn any_listing_is_refused_or_every_handle_in_it_is_a_rule() {
        let fuzz = Fuzz::new("nft").folder("tests/captures", |p| p.ends_with("nft.txt"));
        fuzz.folder("tests/corpus/nft", |_| true).run(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            for family in [Family::V4, Family::V6] {
                for table in parse_nft(&text, family).unwrap_or_default() {
                    for rule in &table.rules {
                        assert!(table.chains.iter().any(|c| c.name == rule.chain));
                        let handle = format!("# handle {}", rule.handle.unwrap());
                        assert!(text.contains(&handle), "{handle}");
                    }
                }
            }
            let _inet = parse_inet(&text);
        });
    }

    #[test]
    fn an_nft_listing_is_read_with_hooks_and_handles_past_sets() {
        let tables = parse_nft(NFT, Family::V4).unwrap();
        let t = &tables[0];
        assert_eq!(t.chains[0], Chain { name: "ts-input".into(), policy: None, hook: None });
        assert_eq!(t.chains[1].hook.as_deref(), Some("type filter hook input priority 0"));
        assert_eq!(t.chains[1].policy.as_deref(), Some("ACCEPT"));
        let seen: Vec<_> = t.rules.iter().map(|r| (r.spec.as_str(), r.handle)).collect();
        assert_eq!(
            seen,
            [
                ("ip saddr 1.2.3.4 counter accept", Some(4)),
                (r#"tcp dport { 1, 2, 443 } accept comment "x  # handle y""#, Some(9)),
                ("counter jump ts-input", Some(3)),
            ]
        );
        assert!(parse_nft(NFT.trim_end().trim_end_matches('}'), Family::V4).is_err());
        assert!(parse_nft(NFT, Family::V6).unwrap().is_empty(), "another family's table");
        assert!(parse_inet(NFT).unwrap().is_empty(), "another family's table");
        let inet = parse_inet(&NFT.replace("table ip filter", "table inet firewalld")).unwrap();
        assert_eq!((inet[0].name.as_str(), inet[0].rules.len()), ("firewalld", 3));
    }
}
