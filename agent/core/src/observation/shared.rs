//! What is there in thousands and is held once: long lists while nothing in them changes, and names.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A list whose copies are one list until one of them is changed: with 100 000 routes each copy is megabytes, and the last
/// look, the next one, what a plan is tried on and the guard each want one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared<T>(Arc<Vec<T>>);

impl<T: Clone> Shared<T> {
    /// The first `len` of them, as a list that may be changed. Copies only what somebody else holds, too.
    pub fn into_first(self, len: usize) -> Vec<T> {
        match Arc::try_unwrap(self.0) {
            Ok(mut own) => {
                own.truncate(len);
                own
            }
            Err(shared) => shared.iter().take(len).cloned().collect(),
        }
    }
}

impl<T> Shared<T> {
    /// Are the two one list in memory?
    pub fn is_one_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T> From<Vec<T>> for Shared<T> {
    fn from(list: Vec<T>) -> Self {
        Self(Arc::new(list))
    }
}

impl<T> FromIterator<T> for Shared<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Vec::from_iter(items).into()
    }
}

impl<T> Deref for Shared<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

/// Whoever changes it has a list of its own from then on.
impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a, T> IntoIterator for &'a Shared<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, T: Clone> IntoIterator for &'a mut Shared<T> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

/// A name that many things have, one copy for all of them: the device of 100 000 routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::Shared;
    use alloc::vec;

    #[test]
    fn a_copy_is_the_same_list_until_one_of_them_is_changed() {
        let one = Shared::from(vec![1, 2, 3]);
        let mut other = one.clone();
        assert!(one.is_one_with(&other));
        other.push(4);
        assert!(!one.is_one_with(&other));
        assert_eq!((one.len(), other.len()), (3, 4));
    }

    #[test]
    fn the_first_of_a_list_leave_the_others_copies_whole() {
        let one = Shared::from(vec![1, 2, 3]);
        assert_eq!(one.clone().into_first(2), [1, 2]);
        assert_eq!(one.into_first(9), [1, 2, 3]);
    }

    #[test]
    fn it_is_written_down_as_a_list() {
        let one = Shared::from(vec![1, 2]);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, "[1,2]");
        assert_eq!(serde_json::from_str::<Shared<i32>>(&text).unwrap(), one);
    }
}
