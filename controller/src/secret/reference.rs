//! Where a secret is: `op://vault/item/field`, `env:NAME` or `file:PATH`. A configuration holds references, never secrets.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// In 1Password.
    Op(String),
    /// In the environment.
    Env(String),
    /// In a file of ours.
    File(PathBuf),
}

/// Why a reference cannot be used. What is not certainly a reference is never repeated: it may be the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No known beginning.
    #[error(
        "it is no reference to a secret (op://…, env:NAME or file:PATH); a secret itself does not belong here"
    )]
    Unknown,
    /// `op` would refuse it.
    #[error("{reference} is no legal reference: {character:?} cannot stand in one")]
    Character {
        /// The whole of it.
        reference: String,
        /// The first that cannot stand there.
        character: char,
    },
    /// Too few or too many parts.
    #[error(
        "{reference} is no legal reference: it is op://VAULT/ITEM/FIELD or op://VAULT/ITEM/SECTION/FIELD"
    )]
    Parts {
        /// The whole of it.
        reference: String,
    },
    /// No name, no path.
    #[error("{kind} names nothing")]
    Empty {
        /// `env:` or `file:`.
        kind: &'static str,
    },
    /// Not a name of the environment.
    #[error("env: names a variable with letters, digits and _ only")]
    Variable,
}

impl ReferenceError {
    /// What to try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Character { reference, .. } => {
                let item = reference.split('/').nth(3).unwrap_or("ITEM");
                let vault = reference.split('/').nth(2).unwrap_or("VAULT");
                Some(format!(
                    "use the item's id in its place; this shows it: op item get '{item}' --vault '{vault}' --format json"
                ))
            }
            Self::Unknown => Some(
                "put the secret into 1Password, a file of mode 0600 or the environment, and its place here".to_owned(),
            ),
            Self::Parts { .. } | Self::Empty { .. } | Self::Variable => None,
        }
    }
}

impl Reference {
    /// Reads a reference; a relative path is relative to `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self, ReferenceError> {
        if text.get(..5).is_some_and(|p| p.eq_ignore_ascii_case("op://")) {
            return op(text).map(|()| Self::Op(text.to_owned()));
        }
        if let Some(name) = text.strip_prefix("env:") {
            let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
            return match name {
                "" => Err(ReferenceError::Empty { kind: "env:" }),
                n if n.chars().all(legal) && !n.starts_with(|c: char| c.is_ascii_digit()) => {
                    Ok(Self::Env(n.to_owned()))
                }
                _ => Err(ReferenceError::Variable),
            };
        }
        match text.strip_prefix("file:") {
            Some("") => Err(ReferenceError::Empty { kind: "file:" }),
            Some(path) => Ok(Self::File(base.join(path))),
            None => Err(ReferenceError::Unknown),
        }
    }
}

/// The grammar `op` itself has: letters, digits, `-`, `_`, `.` and the space, three or four parts, perhaps an attribute.
fn op(text: &str) -> Result<(), ReferenceError> {
    let (path, attribute) = match text[5..].split_once('?') {
        Some((path, attribute)) => (path, Some(attribute)),
        None => (&text[5..], None),
    };
    let legal = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ' | '/');
    if let Some(character) = path.chars().find(|c| !legal(c)) {
        return Err(ReferenceError::Character { reference: text.to_owned(), character });
    }
    let parts: Vec<&str> = path.split('/').collect();
    let whole = (3..=4).contains(&parts.len()) && parts.iter().all(|p| !p.trim().is_empty());
    let known =
        attribute.is_none_or(|a| a.starts_with("attribute=") || a.starts_with("ssh-format="));
    match whole && known {
        true => Ok(()),
        false => Err(ReferenceError::Parts { reference: text.to_owned() }),
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op(r) => f.write_str(r),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text, Path::new("/home/a"))
    }

    #[test]
    fn the_three_kinds_are_read() {
        assert_eq!(
            parse("env:HOSTINGER_API_TOKEN"),
            Ok(Reference::Env("HOSTINGER_API_TOKEN".into()))
        );
        assert_eq!(parse("file:token"), Ok(Reference::File("/home/a/token".into())));
        assert_eq!(parse("file:/run/token"), Ok(Reference::File("/run/token".into())));
        for good in [
            "op://Infrastructure/Hostinger VPS - srv712695/api_token",
            "op://v/i/section/field",
            "OP://v/i/one-time password?attribute=otp",
        ] {
            assert_eq!(parse(good), Ok(Reference::Op(good.into())));
        }
    }

    #[test]
    fn a_parenthesis_is_refused_and_the_items_id_is_offered() {
        let error =
            parse("op://Infrastructure/Hostinger VPS - srv712695 (styx)/api_token").unwrap_err();
        assert!(error.to_string().contains("'(' cannot stand in one"), "{error}");
        assert!(error.hint().unwrap().contains("op item get 'Hostinger VPS - srv712695 (styx)'"));
    }

    #[test]
    fn what_is_no_reference_is_never_repeated() {
        for bad in ["hunter2", "env:hunter 2", "env:", "file:", "ops_hunter2"] {
            let error = parse(bad).unwrap_err();
            assert!(!error.to_string().contains("hunter"), "{error}");
        }
        for bad in ["op://v/i", "op://v//f", "op://v/i/s/f/x", "op://v/i/f?x=y"] {
            assert!(matches!(parse(bad), Err(ReferenceError::Parts { .. })), "{bad}");
        }
    }
}
