//! lwIP's TCP under test: Debian's liblwip behind the C harness in `lwip/harness.c`. lwIP is one stack per process, so a new
//! [`Lwip`] ends the connections of the one before. `unsafe` here is the calls into C.

use core::cell::Cell;

use crate::frames::{PREFIX_LEN, STACK_ADDR};
use crate::stack::{App, Stack, Turn};

unsafe extern "C" {
    fn lwip_bench_begin(what: i32, addr: u32, mask: u32) -> i32;
    fn lwip_bench_arrive(frame: *const u8, len: u16) -> i32;
    fn lwip_bench_work(micros: u64);
    fn lwip_bench_sent(at: u32, frame: *mut u8) -> u16;
    fn lwip_bench_bytes_read() -> u64;
    fn lwip_bench_lost() -> u64;
}

thread_local! {
    /// There is one already.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// The process's lwIP and its server.
pub struct Lwip {
    /// Not `Send`: lwIP without its thread is for one thread.
    _not_send: core::marker::PhantomData<*const ()>,
}

impl Drop for Lwip {
    fn drop(&mut self) {
        TAKEN.set(false);
    }
}

impl Stack for Lwip {
    const NAME: &'static str = "lwip";

    fn new(app: App, _connections: u32) -> Self {
        static THREAD: std::sync::OnceLock<std::thread::ThreadId> = std::sync::OnceLock::new();
        let here = std::thread::current().id();
        assert_eq!(*THREAD.get_or_init(|| here), here, "lwIP runs in the thread that began with it");
        assert!(!TAKEN.replace(true), "lwIP is one stack per process");
        let app = match app {
            App::Idle => 0,
            App::Sink => 1,
            App::Source => 2,
            App::Echo => 3,
            App::Close => 4,
        };
        let mask = u32::MAX << (32 - PREFIX_LEN);
        // SAFETY: only this thread calls the harness, and nothing else holds what it frees.
        let begun = unsafe { lwip_bench_begin(app, u32::from_ne_bytes(STACK_ADDR), mask.to_be()) };
        assert_eq!(begun, 1, "lwIP must listen");
        Self { _not_send: core::marker::PhantomData }
    }

    fn arrive(&mut self, frame: &[u8]) {
        // SAFETY: the harness copies `len` bytes from `frame`, which has them.
        let taken = unsafe { lwip_bench_arrive(frame.as_ptr(), frame.len() as u16) };
        assert_eq!(taken, 1, "lwIP has a buffer for the frame");
    }

    fn work(&mut self, turn: &Turn<'_>) {
        // SAFETY: the harness was begun, in this thread.
        unsafe { lwip_bench_work(turn.micros) };
    }

    fn sent(&mut self, each: &mut dyn FnMut(&[u8])) {
        let mut frame = [0; 1514];
        for at in 0.. {
            // SAFETY: the harness writes at most 1514 bytes to `frame`, and each place is asked for once.
            let len = unsafe { lwip_bench_sent(at, frame.as_mut_ptr()) };
            if len == 0 {
                break;
            }
            each(&frame[..usize::from(len)]);
        }
        // SAFETY: reads a counter.
        assert_eq!(unsafe { lwip_bench_lost() }, 0, "the transmit queue has room");
    }

    fn bytes_read(&self) -> u64 {
        // SAFETY: reads a counter.
        unsafe { lwip_bench_bytes_read() }
    }
}
