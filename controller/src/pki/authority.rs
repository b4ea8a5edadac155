//! The authority that lies in a directory, and what opens its key.

use super::{PkiError, seal};
use crate::ask;
use crate::error::CommandError;
use crate::files;
use crate::out::Out;
use crate::secret::{self, Reference, Secret};
use std::path::{Path, PathBuf};

/// Where a passphrase comes from when no terminal is asked.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Passphrase {
    /// Where the authority's passphrase is (env:NAME, file:PATH or op://…), if its key is encrypted [default: asked for]
    #[arg(long, value_name = "REFERENCE")]
    passphrase: Option<String>,
}

/// An authority's directory, and its passphrase if it needs one.
#[derive(Clone, Debug)]
pub struct Ca {
    /// The directory.
    pub dir: PathBuf,
    /// What opens the key.
    pub passphrase: Option<Secret>,
}

impl Ca {
    /// One whose key is not encrypted.
    pub fn plain(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), passphrase: None }
    }

    /// Looks whether the key is encrypted, and has the passphrase given if it is.
    pub async fn open(dir: &Path, from: &Passphrase, out: Out) -> Result<Self, CommandError> {
        let key = dir.join("ca.key");
        if !seal::is_sealed(&files::read_key(&key)?) {
            return Ok(Self::plain(dir));
        }
        let what = format!("Passphrase of {}: ", key.display());
        let passphrase = from.read(&what, out).await?;
        Ok(Self { dir: dir.to_owned(), passphrase: Some(passphrase) })
    }
}

impl Passphrase {
    /// Was it said where it is?
    pub fn is_given(&self) -> bool {
        self.passphrase.is_some()
    }

    async fn read(&self, question: &str, out: Out) -> Result<Secret, CommandError> {
        let Some(reference) = &self.passphrase else {
            return ask::hidden(out, question).await;
        };
        let reference = Reference::parse(reference, Path::new("")).map_err(|e| {
            let hint = e.hint();
            let error = CommandError::usage(format!("use --passphrase: {e}"));
            hint.into_iter().fold(error, CommandError::hinted)
        })?;
        Ok(secret::resolve(&reference).await?)
    }

    /// A new one: typed twice when it is typed, and long enough.
    pub async fn choose(&self, out: Out) -> Result<Secret, CommandError> {
        let least = seal::SHORTEST;
        let question = format!("Passphrase for the authority's key, {least} characters or more: ");
        let chosen = self.read(&question, out).await?;
        if chosen.expose().chars().count() < least {
            return Err(CommandError::usage(format!(
                "encrypt the authority's key: the passphrase has fewer than {least} characters"
            ))
            .hinted("nothing was written"));
        }
        if !self.is_given()
            && ask::hidden(out, "The same again: ").await?.expose() != chosen.expose()
        {
            return Err(CommandError::usage(
                "encrypt the authority's key: what was typed first was something else",
            )
            .hinted("nothing was written"));
        }
        Ok(chosen)
    }
}

/// The key, with its passphrase if it needs one.
pub fn key(ca: &Ca) -> Result<rcgen::KeyPair, PkiError> {
    let path = ca.dir.join("ca.key");
    let parse = |why| PkiError::Parse { path: path.clone(), why };
    let text = zeroize::Zeroizing::new(files::read_key(&path)?);
    match (seal::is_sealed(&text), &ca.passphrase) {
        (true, Some(passphrase)) => seal::open(&text, passphrase).map_err(parse),
        (true, None) => Err(parse("it is encrypted, and no passphrase was given".into())),
        (false, _) => rcgen::KeyPair::from_pem(&text).map_err(|e| parse(e.to_string())),
    }
}
