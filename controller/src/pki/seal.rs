//! The authority's key at rest, encrypted if asked: PKCS#8 with scrypt and AES-256, which openssl reads as well.

use crate::secret::Secret;
use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::pkcs5::scrypt;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use rcgen::KeyPair;
use zeroize::Zeroizing;

/// A passphrase that is shorter is no protection against who has the file.
pub const SHORTEST: usize = 12;

const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// What scrypt costs: 16 MiB and a tenth of a second. OWASP's equal of 128 MiB with p = 1, which openssl refuses to spend.
const COST: (u8, u32, u32) = (14, 8, 5);

/// Is it encrypted?
pub fn is_sealed(pem: &str) -> bool {
    pem.contains(LABEL)
}

/// Encrypts a key.
pub fn seal(pair: &KeyPair, passphrase: &Secret) -> Result<Zeroizing<String>, String> {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    let random = rustls::crypto::ring::default_provider().secure_random;
    for bytes in [&mut salt, &mut iv] {
        random.fill(bytes).map_err(|_| "no random numbers are to be had".to_owned())?;
    }
    let (log_n, r, p) = COST;
    let cost = scrypt::Params::new(log_n, r, p).map_err(|e| e.to_string())?;
    let how = Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(|e| e.to_string())?;
    let der = Zeroizing::new(pair.serialize_der());
    let key = PrivateKeyInfoRef::try_from(der.as_slice()).map_err(|e| e.to_string())?;
    let sealed = key.encrypt_with_params(how, passphrase.expose()).map_err(|e| e.to_string())?;
    sealed.to_pem(LABEL, LineEnding::LF).map_err(|e| e.to_string())
}

/// Decrypts a key; a wrong passphrase is said to be one.
pub fn open(pem: &str, passphrase: &Secret) -> Result<KeyPair, String> {
    let (_, sealed) = SecretDocument::from_pem(pem).map_err(|e| e.to_string())?;
    let sealed =
        EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes()).map_err(|e| e.to_string())?;
    let wrong = "the passphrase does not open it";
    let key = sealed.decrypt(passphrase.expose()).map_err(|_| wrong.to_owned())?;
    KeyPair::try_from(key.as_bytes()).map_err(|_| wrong.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_passphrase_opens_a_key() {
        let pair = KeyPair::generate().unwrap();
        let right = Secret::new("correct horse battery".into());
        let sealed = seal(&pair, &right).unwrap();
        assert!(is_sealed(&sealed) && !is_sealed(&pair.serialize_pem()));
        assert_eq!(open(&sealed, &right).unwrap().serialize_der(), pair.serialize_der());
        for wrong in ["correct horse batterx", "", "correct horse battery "] {
            let why = open(&sealed, &Secret::new(wrong.into())).unwrap_err();
            assert_eq!(why, "the passphrase does not open it");
        }
        let again = seal(&pair, &right).unwrap();
        assert_ne!(*again, *sealed, "its salt is another one each time");
    }
}
