//! Small files of the served directory, kept in memory between requests.
//!
//! Opening, reading and closing a small file costs more than sending it. So its bytes are kept, and each request asks the
//! kernel only whether what is at the path is what was read ([`FileState`]: device, inode, length, times of change); if not, or
//! if anything is in the way, the file is opened as ever. A change is seen by the next request. Left out are files that changed
//! within [`SETTLED`] (a second change might leave the same time), and those on file systems that may have to ask a server.
//! What [`Files::forget_unused`] finds unused since it was last called is given up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::files::{CHUNK_BYTES, FileState, OpenFile, Opened, Piece, Root};

/// Longest file that is kept, in bytes: longer ones are worth their opening.
const LENGTH_MAX: u64 = CHUNK_BYTES as u64;
/// Most files kept by a shard.
const FILES_MAX: usize = 1024;
/// What a kept file is charged besides its bytes: path, tag and table entry.
const OVERHEAD: usize = 512;
/// How long a file must not have changed: file systems' times of change may be as coarse as a second or two.
const SETTLED: Duration = Duration::from_secs(3);
/// How often a server should call [`Files::forget_unused`].
pub const UNUSED_INTERVAL: Duration = Duration::from_secs(10);

/// The served directory and what is kept of it. Each shard has its own.
#[derive(Debug)]
pub struct Files {
    root: Root,
    kept: RefCell<Kept>,
}

#[derive(Debug)]
struct Kept {
    bytes_max: usize,
    settled: Duration,
    bytes: usize,
    by_path: HashMap<PathBuf, KeptFile>,
    /// Requests answered from here, and files taken in, so far.
    uses: u64,
    /// What `uses` was when unused files were last given up.
    uses_before: u64,
}

#[derive(Debug)]
struct KeptFile {
    state: FileState,
    file: OpenFile,
    /// [`Kept::uses`] at its last use.
    used: u64,
}

impl Files {
    /// Keeps at most `bytes_max` bytes; with 0 nothing.
    #[must_use]
    pub fn new(root: Root, bytes_max: usize) -> Self {
        let kept =
            Kept { bytes_max, settled: SETTLED, bytes: 0, by_path: HashMap::new(), uses: 0, uses_before: 0 };
        Self { root, kept: RefCell::new(kept) }
    }

    /// As [`Root::open_path`].
    ///
    /// # Errors
    /// As [`Root::open_path`].
    pub async fn open_path(&self, path: &Path) -> io::Result<Opened> {
        if let Some(file) = self.kept.borrow_mut().get(&self.root, path) {
            return Ok(Opened::File(file));
        }
        let opened = self.root.open_path(path).await?;
        let Opened::File(file) = &opened else { return Ok(opened) };
        let mut kept = self.kept.borrow_mut();
        let Some((state, file)) = kept.worth_keeping(file) else { return Ok(opened) };
        kept.insert(path, state, file.clone());
        Ok(Opened::File(file))
    }

    /// Gives up what was not asked for since the last call.
    pub fn forget_unused(&self) {
        self.kept.borrow_mut().forget_unused();
    }
}

impl Kept {
    /// The file at `path`, if it is kept and still there as it was.
    fn get(&mut self, root: &Root, path: &Path) -> Option<OpenFile> {
        let kept = self.by_path.get_mut(path)?;
        if root.state_of(path) == Some(kept.state) {
            self.uses += 1;
            kept.used = self.uses;
            return Some(kept.file.clone());
        }
        self.remove(path);
        None
    }

    /// The file with its bytes, if it may be kept: it is small, at rest, in memory, and nothing that a server has.
    fn worth_keeping(&self, file: &OpenFile) -> Option<(FileState, OpenFile)> {
        if file.length > LENGTH_MAX || charge(file) > self.bytes_max {
            return None;
        }
        let state = file.state().ok()?;
        let settled = SystemTime::now().duration_since(state.changed()).is_ok_and(|age| age >= self.settled);
        if state.length != file.length || !settled || !file.is_on_local_file_system() {
            return None;
        }
        let contents = match file.read(0, file.length).ok()? {
            Piece::Ready(contents) if contents.len() as u64 == file.length => contents,
            // It waits for a disk, or became shorter.
            Piece::Ready(_) | Piece::Reading(_) => return None,
        };
        (file.state().ok()? == state).then(|| (state, file.with_contents(contents)))
    }

    fn insert(&mut self, path: &Path, state: FileState, file: OpenFile) {
        self.remove(path);
        let charge = charge(&file);
        while self.bytes + charge > self.bytes_max || self.by_path.len() >= FILES_MAX {
            let oldest = self.by_path.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(path, _)| path.clone()) else { return };
            self.remove(&oldest);
        }
        self.bytes += charge;
        self.uses += 1;
        self.by_path.insert(path.to_owned(), KeptFile { state, file, used: self.uses });
    }

    fn remove(&mut self, path: &Path) {
        if let Some(kept) = self.by_path.remove(path) {
            self.bytes -= charge(&kept.file);
        }
    }

    fn forget_unused(&mut self) {
        let before = self.uses_before;
        self.by_path.retain(|_, kept| kept.used > before);
        self.bytes = self.by_path.values().map(|kept| charge(&kept.file)).sum();
        self.uses_before = self.uses;
    }
}

fn charge(file: &OpenFile) -> usize {
    file.length as usize + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const REST: Duration = Duration::from_millis(40);

    /// A directory whose files are at rest after [`REST`].
    fn site(bytes_max: usize, names: &[&str]) -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(directory.path().join(name), name).unwrap());
        let files = Files::new(Root::open(directory.path()).unwrap(), bytes_max);
        files.kept.borrow_mut().settled = REST;
        std::thread::sleep(2 * REST);
        (directory, files)
    }

    /// The bytes of a file, and whether they were kept from an earlier request.
    fn get(files: &Files, path: &str) -> io::Result<(Vec<u8>, bool)> {
        let kept = files.kept.borrow_mut().get(&files.root, Path::new(path));
        let Opened::File(file) = block_on(files.open_path(Path::new(path)))? else { panic!("not a file") };
        let Piece::Ready(bytes) = file.read(0, u64::MAX)? else { panic!("not in memory") };
        Ok((bytes.to_vec(), kept.is_some()))
    }

    #[test]
    fn what_was_read_once_is_kept_and_read_like_the_file() {
        let (_directory, files) = site(1 << 20, &["a", "sub"]);
        assert_eq!(get(&files, "a").unwrap(), (b"a".to_vec(), false));
        assert_eq!(get(&files, "a").unwrap(), (b"a".to_vec(), true));
        let Opened::File(file) = block_on(files.open_path(Path::new("a"))).unwrap() else { panic!() };
        for (offset, wanted, expected) in
            [(0, 0, ""), (0, 1, "a"), (0, 9, "a"), (1, 1, ""), (u64::MAX, u64::MAX, "")]
        {
            let Piece::Ready(bytes) = file.read(offset, wanted).unwrap() else { panic!("waits") };
            assert_eq!(bytes, expected, "{offset} {wanted}");
        }
    }

    #[test]
    fn a_change_is_seen_by_the_next_request() {
        let (directory, files) = site(1 << 20, &["a", "b", "c", "d", "link"]);
        let at = |name: &str| directory.path().join(name);
        fs::remove_file(at("link")).unwrap();
        symlink("a", at("link")).unwrap();
        for name in ["a", "b", "c", "d", "link"] {
            get(&files, name).unwrap();
        }
        assert_eq!(files.kept.borrow().by_path.len(), 5);
        fs::write(at("a"), "x").unwrap();
        fs::rename(at("c"), at("b")).unwrap();
        fs::remove_file(at("d")).unwrap();
        assert_eq!(get(&files, "a").unwrap(), (b"x".to_vec(), false));
        assert_eq!(get(&files, "link").unwrap(), (b"x".to_vec(), false));
        assert_eq!(get(&files, "b").unwrap(), (b"c".to_vec(), false));
        for name in ["c", "d"] {
            assert_eq!(get(&files, name).unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
        }
        // What changed a moment ago may change again within the same tick of the file system's clock.
        assert!(!files.kept.borrow().by_path.contains_key(Path::new("a")));
        std::thread::sleep(2 * REST);
        get(&files, "a").unwrap();
        assert_eq!(get(&files, "a").unwrap(), (b"x".to_vec(), true));
    }

    #[test]
    fn a_link_that_leaves_the_directory_later_is_not_followed() {
        let (directory, files) = site(1 << 20, &["a", "link"]);
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let link = directory.path().join("link");
        fs::remove_file(&link).unwrap();
        symlink("a", &link).unwrap();
        get(&files, "link").unwrap();
        fs::remove_file(&link).unwrap();
        symlink(outside.path().join("secret"), &link).unwrap();
        assert_eq!(get(&files, "link").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn other_rights_lead_to_another_opening() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, files) = site(1 << 20, &["a"]);
        get(&files, "a").unwrap();
        fs::set_permissions(directory.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(get(&files, "a").unwrap(), (b"a".to_vec(), false));
    }

    #[test]
    fn long_files_and_directories_are_not_kept_nor_anything_without_room() {
        let (directory, files) = site(1 << 20, &["a"]);
        fs::write(directory.path().join("long"), vec![1; LENGTH_MAX as usize + 1]).unwrap();
        fs::write(directory.path().join("just"), vec![1; LENGTH_MAX as usize]).unwrap();
        std::thread::sleep(2 * REST);
        for name in ["long", "just"] {
            assert!(matches!(block_on(files.open_path(Path::new(name))), Ok(Opened::File(_))));
        }
        assert!(matches!(block_on(files.open_path(Path::new("."))), Ok(Opened::Directory(_))));
        let kept: Vec<PathBuf> = files.kept.borrow().by_path.keys().cloned().collect();
        assert_eq!(kept, [Path::new("just")]);
        for bytes_max in [0, OVERHEAD] {
            let (_directory, files) = site(bytes_max, &["a"]);
            get(&files, "a").unwrap();
            assert!(files.kept.borrow().by_path.is_empty());
        }
    }

    #[test]
    fn what_is_not_asked_for_is_given_up() {
        let (_directory, files) = site(1 << 20, &["a", "b"]);
        get(&files, "a").unwrap();
        get(&files, "b").unwrap();
        files.forget_unused();
        get(&files, "b").unwrap();
        files.forget_unused();
        assert_eq!(files.kept.borrow().by_path.len(), 1);
        assert_eq!(get(&files, "b").unwrap(), (b"b".to_vec(), true));
        files.forget_unused();
        files.forget_unused();
        assert_eq!((files.kept.borrow().by_path.len(), files.kept.borrow().bytes), (0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_bound_holds_and_the_least_recently_used_goes(
            asked in prop::collection::vec(0usize..6, 1..40),
            room in 0usize..5,
        ) {
            const NAMES: [&str; 6] = ["0", "1", "2", "3", "4", "5"];
            let (_directory, files) = site(room * (OVERHEAD + 1), &NAMES);
            let mut expected: Vec<usize> = Vec::new();
            for name in asked {
                let (bytes, was_kept) = get(&files, NAMES[name]).unwrap();
                prop_assert_eq!(bytes, NAMES[name].as_bytes());
                prop_assert_eq!(was_kept, expected.contains(&name));
                expected.retain(|other| *other != name);
                expected.push(name);
                if expected.len() > room {
                    expected.remove(0);
                }
                let kept = files.kept.borrow();
                prop_assert!(kept.bytes <= kept.bytes_max);
                prop_assert_eq!(kept.bytes, kept.by_path.len() * (OVERHEAD + 1));
            }
        }
    }
}
