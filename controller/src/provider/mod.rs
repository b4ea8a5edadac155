//! The provider (Hostinger): its machines looked at and restarted, by its documented interface only.
//!
//! Nothing here can buy, cancel or set up a machine: [`call::Call`] is the whole of what can be asked.

pub mod act;
pub mod api;
pub mod call;
pub mod diary;
pub mod error;
pub mod pick;
pub mod shape;

pub use api::Api;
pub use error::ProviderError;
