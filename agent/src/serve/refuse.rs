//! What a caller is told when something is not done: one code for each of our errors, and the whole chain of causes.

use crate::journal::JournalError;
use crate::log::LogError;
use crate::papers::PapersError;
use crate::runs::Refused;
use crate::runs::book::BookError;
use crate::sight::chain;
use crate::store::StoreError;
use tonic::Status;

impl From<Refused> for Status {
    fn from(why: Refused) -> Self {
        let text = chain(&why);
        match why {
            Refused::Busy { .. }
            | Refused::Idle
            | Refused::Unfinished { .. }
            | Refused::Unasked { .. }
            | Refused::Late { .. } => Self::failed_precondition(text),
            Refused::NoIncident { .. } | Refused::NoRun { .. } => Self::not_found(text),
            Refused::Request { .. } => Self::invalid_argument(text),
            Refused::Reused { .. } => Self::already_exists(text),
            Refused::Journal(why) => code(&why, text),
            Refused::Book(why) => match why {
                BookError::File { .. } => Self::resource_exhausted(text),
                BookError::Damaged { .. } | BookError::Form { .. } => Self::data_loss(text),
                BookError::Read { .. } => Self::unavailable(text),
            },
            Refused::Leaving | Refused::Silent => Self::unavailable(text),
            Refused::Lost => Self::internal(text),
        }
    }
}

fn code(why: &JournalError, text: String) -> Status {
    match why {
        JournalError::File { .. } => Status::resource_exhausted(text),
        JournalError::Damaged { .. } | JournalError::Newer { .. } | JournalError::Form { .. } => {
            Status::data_loss(text)
        }
        JournalError::Read { .. } | JournalError::Leaving { .. } => Status::unavailable(text),
    }
}

impl From<StoreError> for Status {
    fn from(why: StoreError) -> Self {
        let text = chain(&why);
        match why {
            StoreError::Disk { .. } | StoreError::Room { .. } => Self::resource_exhausted(text),
            StoreError::Form { .. } => Self::internal(text),
        }
    }
}

impl From<PapersError> for Status {
    fn from(why: PapersError) -> Self {
        let text = chain(&why);
        match why {
            PapersError::Sent { .. } => Self::invalid_argument(text),
            PapersError::Unasked | PapersError::Tls(_) => Self::failed_precondition(text),
            PapersError::File { .. } => Self::resource_exhausted(text),
            PapersError::Silent => Self::unavailable(text),
            PapersError::Make(_) => Self::internal(text),
        }
    }
}

impl From<LogError> for Status {
    fn from(why: LogError) -> Self {
        let text = chain(&why);
        match why {
            LogError::Cursor => Self::invalid_argument(text),
            LogError::Child(_) => Self::unavailable(text),
            LogError::Form(_) => Self::internal(text),
        }
    }
}
