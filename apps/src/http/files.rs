//! Files of the served directory, opened and read without holding up the shard.
//!
//! The kernel is asked for what it has in memory (`openat2` with `RESOLVE_CACHED`, `preadv2` with `RWF_NOWAIT`): that takes
//! microseconds and happens on the shard's own thread. Only what would wait for a disk goes to the `blocking` crate's
//! threads, and the shard serves others meanwhile. `RESOLVE_BENEATH` makes the kernel refuse every path and symbolic
//! link that leaves the directory.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::conditional::Validators;
use super::description::{Description, content_type};

/// Bytes read from memory at a time: about 10 microseconds of copying.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes read from disk at a time: a thread's round trip should bring more than a moment's worth.
const DISK_CHUNK_BYTES: usize = 256 << 10;

/// The served directory.
#[derive(Clone, Debug)]
pub struct Root {
    directory: Arc<OwnedFd>,
}

/// What a path led to.
#[derive(Debug)]
pub enum Opened {
    /// A regular file.
    File(OpenFile),
    /// A directory, open for listing.
    Directory(OwnedFd),
}

/// A regular file with what the answer's header says of it.
#[derive(Clone, Debug)]
pub struct OpenFile {
    data: Data,
    /// Length in bytes when it was opened.
    pub length: u64,
    /// What it is, and its state when it was opened.
    pub description: Rc<Description>,
}

#[derive(Clone, Debug)]
enum Data {
    Descriptor(Arc<File>),
    Memory(Bytes),
}

/// What tells a file that was read from what is at its path now: which file it is, and whether it or its rights changed since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileState {
    device: u64,
    inode: u64,
    /// In bytes.
    pub length: u64,
    /// Seconds and nanoseconds of the last change of its bytes (`mtime`), and of these or anything about it (`ctime`).
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// When it last changed; before 1970 is 1970.
    #[must_use]
    pub fn changed(&self) -> SystemTime {
        let (seconds, nanos) = self.modified.max(self.changed);
        let since = Duration::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
        SystemTime::UNIX_EPOCH + since
    }
}

/// `f_type` (statfs(2), linux/magic.h) of file systems in memory and on disks of this machine.
const LOCAL_FILE_SYSTEMS: [u64; 12] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // F2FS
    0x794c_7630, // overlayfs
    0x7371_7368, // SquashFS
    0xe0f5_e1e2, // EROFS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0x9660,      // ISO 9660
];

impl Root {
    /// Opens the directory, and tries that the kernel can keep paths below it.
    ///
    /// # Errors
    /// No such directory, no right to it, or a kernel (or container) without `openat2`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let root = Self { directory: Arc::new(directory) };
        match open_beneath(&root.directory, Path::new("."), ResolveFlags::empty()) {
            Err(Errno::NOSYS | Errno::PERM) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the system call openat2, which keeps requests inside the served directory, is not allowed here (Linux 5.6 \
                 or newer has it; a container's seccomp profile may forbid it)",
            )),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(root),
        }
    }

    /// Opens what is at `path` below the directory. Sockets, pipes and devices count as not found.
    ///
    /// # Errors
    /// What the system says; links that leave the directory are `NotFound`.
    pub async fn open_path(&self, path: &Path) -> io::Result<Opened> {
        let opened = match open_beneath(&self.directory, path, ResolveFlags::CACHED) {
            // Not in the dentry cache, or a kernel before 5.12: let another thread walk the path.
            Err(Errno::AGAIN | Errno::INVAL) => {
                let (directory, path) = (self.directory.clone(), path.to_owned());
                blocking::unblock(move || open_beneath(&directory, &path, ResolveFlags::empty())).await
            }
            opened => opened,
        };
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::XDEV | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::NAMETOOLONG) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Ok(Opened::Directory(file.into()));
        }
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let etag = format!(
            "\"{:x}-{:x}-{:x}-{:x}\"",
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        let last_modified = metadata.modified().ok().filter(|&time| time <= SystemTime::now());
        let validators = Validators { etag, last_modified };
        let data = Data::Descriptor(Arc::new(file));
        let description = Rc::new(Description::new(validators, &content_type(path)));
        Ok(Opened::File(OpenFile { data, length: metadata.len(), description }))
    }

    /// The state of what is at `path` now, even if the path leaves the directory by a link; `None`: it cannot be had.
    #[must_use]
    pub fn state_of(&self, path: &Path) -> Option<FileState> {
        let wanted = StatxFlags::BASIC_STATS;
        let stat = rustix::fs::statx(&*self.directory, path, AtFlags::NO_AUTOMOUNT, wanted).ok()?;
        let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, i64::from(time.tv_nsec));
        Some(FileState {
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            length: stat.stx_size,
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
        })
    }
}

/// `openat2` that neither leaves `directory` nor waits for the other end of a pipe.
fn open_beneath(directory: &OwnedFd, path: &Path, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | how;
    loop {
        match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// A piece of a file, now or from another thread.
#[derive(Debug)]
pub enum Piece {
    /// It was in memory; empty at the end of the file.
    Ready(Bytes),
    /// A thread is reading it.
    Reading(blocking::Task<io::Result<Bytes>>),
}

impl OpenFile {
    /// Its state now.
    ///
    /// # Errors
    /// What the system says; `Unsupported` for bytes in memory.
    pub fn state(&self) -> io::Result<FileState> {
        match &self.data {
            Data::Descriptor(file) => Ok(FileState::of(&file.metadata()?)),
            Data::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether nobody but this machine's kernel has to be asked about it.
    #[must_use]
    pub fn is_on_local_file_system(&self) -> bool {
        match &self.data {
            Data::Descriptor(file) => rustix::fs::fstatfs(file)
                .is_ok_and(|stat| LOCAL_FILE_SYSTEMS.contains(&(stat.f_type as u64 & 0xffff_ffff))),
            Data::Memory(_) => true,
        }
    }

    /// The same without the file: `contents` are all of its bytes.
    #[must_use]
    pub fn with_contents(&self, contents: Bytes) -> Self {
        Self { data: Data::Memory(contents), ..self.clone() }
    }

    /// Up to `wanted` bytes from `offset` on, as many as are in memory and at most [`CHUNK_BYTES`].
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, offset: u64, wanted: u64) -> io::Result<Piece> {
        let length = usize::try_from(wanted).unwrap_or(usize::MAX);
        let file = match &self.data {
            Data::Descriptor(file) => file,
            Data::Memory(contents) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
                let end = start.saturating_add(length).min(contents.len());
                return Ok(Piece::Ready(contents.slice(start..end)));
            }
        };
        let mut chunk = vec![0; length.min(CHUNK_BYTES)];
        let mut slices = [io::IoSliceMut::new(&mut chunk)];
        match rustix::io::preadv2(&**file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(count) => {
                chunk.truncate(count);
                Ok(Piece::Ready(chunk.into()))
            }
            // Not in the page cache, or a file system that cannot tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => {
                let file = file.clone();
                Ok(Piece::Reading(blocking::unblock(move || {
                    let mut chunk = vec![0; length.min(DISK_CHUNK_BYTES)];
                    let count = loop {
                        match file.read_at(&mut chunk, offset) {
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                            count => break count?,
                        }
                    };
                    chunk.truncate(count);
                    Ok(chunk.into())
                })))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use std::os::unix::fs::symlink;

    fn open(root: &Root, path: &str) -> io::Result<Opened> {
        block_on(root.open_path(Path::new(path)))
    }

    fn site() -> (tempfile::TempDir, Root) {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let inside = outside.path().join("www");
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(inside.join("a.txt"), "hello").unwrap();
        let root = Root::open(&inside).unwrap();
        (outside, root)
    }

    #[test]
    fn files_open_with_length_and_distinct_tags() {
        let (outside, root) = site();
        std::fs::write(outside.path().join("www/b.txt"), "world").unwrap();
        let (Opened::File(a), Opened::File(b)) =
            (open(&root, "a.txt").unwrap(), open(&root, "b.txt").unwrap())
        else {
            panic!("not files")
        };
        assert_eq!((a.length, b.length), (5, 5));
        assert_ne!(a.description.validators.etag, b.description.validators.etag);
        assert!(a.description.validators.last_modified.is_some());
        assert!(matches!(open(&root, "sub"), Ok(Opened::Directory(_))));
        assert!(matches!(open(&root, "."), Ok(Opened::Directory(_))));
    }

    #[test]
    fn links_inside_are_followed_and_links_outside_are_not_found() {
        let (outside, root) = site();
        let www = outside.path().join("www");
        symlink("a.txt", www.join("inside")).unwrap();
        symlink("../secret", www.join("relative")).unwrap();
        symlink(outside.path().join("secret"), www.join("absolute")).unwrap();
        symlink("loop", www.join("loop")).unwrap();
        assert!(matches!(open(&root, "inside"), Ok(Opened::File(_))));
        for path in ["relative", "absolute", "loop", "../secret", "a.txt/x", "nothing"] {
            assert_eq!(open(&root, path).unwrap_err().kind(), io::ErrorKind::NotFound, "{path}");
        }
    }

    #[test]
    fn pipes_are_not_found_and_do_not_block() {
        let (outside, root) = site();
        let pipe = outside.path().join("www/pipe");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        assert_eq!(open(&root, "pipe").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn reads_are_bounded_by_the_wish_the_chunk_and_the_end() {
        let (outside, root) = site();
        std::fs::write(outside.path().join("www/big"), vec![7; CHUNK_BYTES * 2]).unwrap();
        let Opened::File(file) = open(&root, "big").unwrap() else { panic!("not a file") };
        let read = |offset, wanted| match file.read(offset, wanted).unwrap() {
            Piece::Ready(bytes) => bytes.len(),
            Piece::Reading(task) => block_on(task).unwrap().len(),
        };
        assert_eq!(read(0, 10), 10);
        assert!((1..=DISK_CHUNK_BYTES).contains(&read(0, u64::MAX)));
        assert_eq!(read(CHUNK_BYTES as u64 * 2 - 3, 100), 3);
        assert_eq!(read(CHUNK_BYTES as u64 * 2, 100), 0);
    }
}
