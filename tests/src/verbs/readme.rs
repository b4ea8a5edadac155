//! What was measured, put into the README.

use anyhow::Context;

/// Puts this between the README's markers of that name.
pub fn put(name: &str, told: &str) -> anyhow::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let new = between(&text, name, told)
        .with_context(|| format!("find <!-- {name} --> and <!-- /{name} --> in {path}"))?;
    std::fs::write(path, new).with_context(|| format!("write {path}"))
}

/// A document with this between its markers of that name.
fn between(text: &str, name: &str, told: &str) -> Option<String> {
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&open)?;
    let (_, after) = rest.split_once(&close)?;
    Some(format!("{before}{open}\n{told}{close}{after}"))
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn what_stands_between_the_markers_is_replaced_and_nothing_else() {
        let text = "before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n";
        let new = between(text, "bench", "new\n").unwrap();
        assert_eq!(new, "before\n<!-- bench -->\nnew\n<!-- /bench -->\nafter\n");
        assert_eq!(between(&new, "bench", "new\n").as_deref(), Some(new.as_str()));
        assert!(between(text, "recovered", "new").is_none());
    }
}
