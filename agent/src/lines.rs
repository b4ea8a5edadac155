//! A file that only grows, line by line, each on the disk before the next is thought of. What a line says is not its business.
//!
//! Why a thread for each file: an fsync may hang for minutes on a dying disk, which is not the same as failing. The thread
//! may hang; whoever waits for it does so with a deadline and treats the file as lost. After *any* failure the file is never
//! written again by this process: a failed fsync drops the dirty pages, and a second one would lie (fsyncgate).

use rustix::fs::{
    FallocateFlags, FlockOperation, RenameFlags, fallocate, fdatasync, flock, renameat_with,
};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long one write, with its fsync, may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Space that is taken beforehand, so that a disk that fills up in the middle of a recovery does not stop it.
pub const ROOM: u64 = 256 * 1024;

/// Why a line was not written.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The disk said no.
    #[error("{doing} {path}")]
    Disk {
        /// `write to`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk said nothing.
    #[error("{doing} {path}: the disk has not answered for {} s", DEADLINE.as_secs())]
    Silent {
        /// `write to`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
    },
    /// An earlier failure.
    #[error("write to {path}: an earlier write failed, and it is not used again")]
    Broken {
        /// Which.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("open {path}: another process holds it")]
    Busy {
        /// Which.
        path: PathBuf,
    },
}

enum Job {
    Append(Vec<u8>, oneshot::Sender<Answer<()>>),
    /// What lies behind this length is rubbish.
    Cut(u64, oneshot::Sender<Answer<()>>),
    /// No more lines will come: give back what was taken beforehand.
    Seal(oneshot::Sender<Answer<()>>),
}

type Answer<T> = Result<T, (&'static str, io::Error)>;

/// The file, held by this process alone.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
}

impl Lines {
    /// Makes a file that begins with `first`. It appears under its name only when that is on the disk.
    ///
    /// # Errors
    /// When it exists, or the disk does not take it.
    pub async fn create(path: PathBuf, first: Vec<u8>) -> Result<Self, LinesError> {
        let (lines, _) =
            Self::start(path, "create", move |path| make(path, &first), take_back).await?;
        Ok(lines)
    }

    /// Opens a file and reads all of it. [`Self::cut`] comes next, when its end is torn.
    ///
    /// # Errors
    /// When another process has it, or it cannot be read.
    pub async fn open(path: PathBuf) -> Result<(Self, Vec<u8>), LinesError> {
        Self::start(path, "open", take, |_| {}).await
    }

    async fn start(
        path: PathBuf,
        doing: &'static str,
        begin: impl FnOnce(&Path) -> Answer<(Tail, Vec<u8>)> + Send + 'static,
        in_vain: impl FnOnce(&Path) + Send + 'static,
    ) -> Result<(Self, Vec<u8>), LinesError> {
        let (jobs, work) = mpsc::channel();
        let (ready, opened) = oneshot::channel();
        let at = path.clone();
        let thread = std::thread::Builder::new().name("journal".to_string()).spawn(move || {
            // Nobody may be waiting any more: then there is nobody to tell, and nothing to keep open.
            match begin(&at) {
                Ok((tail, bytes)) => match ready.send(Ok(bytes)) {
                    Ok(()) => keep(tail, &work),
                    Err(_) => in_vain(&at),
                },
                Err(why) => drop(ready.send(Err(why))),
            }
        });
        if let Err(source) = thread {
            return Err(LinesError::Disk { doing: "start a thread for", path, source });
        }
        let bytes = answer(&path, doing, opened).await?;
        Ok((Self { path, jobs: Some(jobs) }, bytes))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends and makes durable. After a failure every later call fails.
    ///
    /// # Errors
    /// When the disk does not take it in time.
    pub async fn append(&mut self, line: Vec<u8>) -> Result<(), LinesError> {
        self.ask("write to", |back| Job::Append(line, back)).await
    }

    /// Cuts a torn end off.
    ///
    /// # Errors
    /// When the disk does not do it in time.
    pub async fn cut(&mut self, good: usize) -> Result<(), LinesError> {
        self.ask("cut the torn end off", |back| Job::Cut(good as u64, back)).await
    }

    /// Gives back what was taken beforehand. The file is whole without it.
    ///
    /// # Errors
    /// When the disk does not do it in time.
    pub async fn seal(&mut self) -> Result<(), LinesError> {
        self.ask("finish", Job::Seal).await
    }

    async fn ask(
        &mut self,
        doing: &'static str,
        job: impl FnOnce(oneshot::Sender<Answer<()>>) -> Job,
    ) -> Result<(), LinesError> {
        // Taken out for as long as the answer is open: a call that is dropped half-way leaves a file nobody can vouch for.
        let jobs =
            self.jobs.take().ok_or_else(|| LinesError::Broken { path: self.path.clone() })?;
        let (back, done) = oneshot::channel();
        if jobs.send(job(back)).is_err() {
            return Err(LinesError::Broken { path: self.path.clone() });
        }
        answer(&self.path, doing, done).await?;
        self.jobs = Some(jobs);
        Ok(())
    }
}

async fn answer<T>(
    path: &Path,
    doing: &'static str,
    from: oneshot::Receiver<Answer<T>>,
) -> Result<T, LinesError> {
    match tokio::time::timeout(DEADLINE, from).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err((_, source)))) if source.kind() == io::ErrorKind::WouldBlock => {
            Err(LinesError::Busy { path: path.into() })
        }
        Ok(Ok(Err((doing, source)))) => Err(LinesError::Disk { doing, path: path.into(), source }),
        Ok(Err(_)) => Err(LinesError::Broken { path: path.into() }),
        Err(_) => Err(LinesError::Silent { doing, path: path.into() }),
    }
}

/// The file and how far it is good.
struct Tail {
    file: File,
    /// Where the next line goes.
    at: u64,
    /// How far space has been taken.
    room: u64,
}

fn keep(mut tail: Tail, work: &mpsc::Receiver<Job>) {
    while let Ok(job) = work.recv() {
        let (done, back) = match job {
            Job::Append(line, back) => (tail.append(&line), back),
            Job::Cut(good, back) => (tail.cut(good), back),
            Job::Seal(back) => (tail.seal(), back),
        };
        let failed = done.is_err();
        drop(back.send(done));
        if failed {
            return;
        }
    }
}

impl Tail {
    fn append(&mut self, line: &[u8]) -> Answer<()> {
        let end = self.at + line.len() as u64;
        if end > self.room {
            let more = (end - self.room).max(ROOM);
            reserve(&self.file, self.room, more).map_err(|e| ("take space for", e))?;
            self.room += more;
        }
        self.file.write_all_at(line, self.at).map_err(|e| ("write to", e))?;
        sync(&self.file)?;
        self.at = end;
        Ok(())
    }

    fn cut(&mut self, good: u64) -> Answer<()> {
        self.file.set_len(good).map_err(|e| ("cut the torn end off", e))?;
        sync(&self.file)?;
        (self.at, self.room) = (good, good);
        Ok(())
    }

    fn seal(&mut self) -> Answer<()> {
        self.file.set_len(self.at).map_err(|e| ("finish", e))?;
        self.room = self.at;
        sync(&self.file)
    }
}

fn sync(file: &File) -> Answer<()> {
    fdatasync(file).map_err(|e| ("bring to the disk", e.into()))
}

fn make(path: &Path, first: &[u8]) -> Answer<(Tail, Vec<u8>)> {
    let fresh = path.with_extension("new");
    // What a crash left half-made was never part of anything.
    if let Err(e) = fs::remove_file(&fresh)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(("remove what was left of", e));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(|e| ("create", e))?;
    lock(&file)?;
    let mut tail = Tail { file, at: 0, room: 0 };
    let named = tail.append(first).and_then(|()| {
        renameat_with(rustix::fs::CWD, &fresh, rustix::fs::CWD, path, RenameFlags::NOREPLACE)
            .map_err(|e| ("create", e.into()))
    });
    if let Err(why) = named {
        drop(fs::remove_file(&fresh));
        return Err(why);
    }
    match sync_folder(path) {
        Ok(()) => Ok((tail, Vec::new())),
        Err(why) => {
            take_back(path);
            Err(("bring to the disk the folder of", why))
        }
    }
}

/// Takes a file away that was made after whoever wanted it had been told that it could not be: the next start would go on with what
/// nobody is waiting for.
fn take_back(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => tracing::info!("{} was made too late, and is taken away", path.display()),
        Err(why) => tracing::error!("take {} away, made too late: {why}", path.display()),
    }
}

fn take(path: &Path) -> Answer<(Tail, Vec<u8>)> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| ("open", e))?;
    lock(&file)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| ("read", e))?;
    let room = bytes.len() as u64;
    let at = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1) as u64;
    Ok((Tail { file, at, room }, bytes))
}

fn lock(file: &File) -> Answer<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|e| ("lock", e.into()))
}

/// Makes a new name in a folder durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    File::open(folder)?.sync_all()
}

/// Takes space in a file, so that what is written there later finds it.
///
/// # Errors
/// When there is not so much.
pub fn reserve(file: &File, from: u64, more: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), from, more) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            // Not every file system can: zeros do the same there, slower.
            let zeros = vec![0_u8; 64 * 1024];
            let mut at = from;
            while at < from + more {
                let n = zeros.len().min(usize::try_from(from + more - at).unwrap_or(zeros.len()));
                file.write_all_at(&zeros[..n], at)?;
                at += n as u64;
            }
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A disk that answers when it is told to.
    async fn made_late(path: &Path) -> mpsc::Sender<()> {
        let (thaw, frozen) = mpsc::channel();
        let begin = move |path: &Path| {
            frozen.recv().ok();
            make(path, b"opened\n")
        };
        let waiting = Lines::start(path.to_owned(), "create", begin, take_back);
        // Whoever waits gives up, as at the deadline.
        assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
        thaw
    }

    fn comes_true(what: impl Fn() -> bool) -> bool {
        let until = Instant::now() + Duration::from_secs(10);
        while !what() {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    #[tokio::test]
    async fn a_file_that_is_made_after_nobody_waits_for_it_is_taken_away_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calypso-1.incident");
        let thaw = made_late(&path).await;
        // Seen from beside: the folder's own time changes when the file comes, and again when it goes.
        let before = fs::metadata(dir.path()).unwrap().modified().unwrap();
        thaw.send(()).unwrap();
        let empty = || fs::read_dir(dir.path()).unwrap().count() == 0;
        let changed = || fs::metadata(dir.path()).unwrap().modified().unwrap() != before;
        assert!(comes_true(|| changed() && empty()));
    }

    #[tokio::test]
    async fn a_file_that_somebody_else_made_meanwhile_is_left_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calypso-1.incident");
        let thaw = made_late(&path).await;
        let (theirs, fresh) = (Lines::create(path.clone(), b"theirs\n".to_vec()).await, "new");
        thaw.send(()).unwrap();
        assert!(comes_true(|| !path.with_extension(fresh).exists()));
        std::thread::sleep(Duration::from_millis(100));
        assert!(fs::read_to_string(&path).unwrap().starts_with("theirs\n"));
        drop(theirs.unwrap());
    }
}
