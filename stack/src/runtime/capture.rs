//! A capture file of what the stack saw and sent: [`Tap`] stands between a device and its shard and copies every packet
//! to a bounded channel; one thread writes the file for all shards. What the channel cannot take is missing from the
//! file and counted: a slow disk never slows the stack.

use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::sys;
use crate::device::{Capabilities, Device, Steering, WaitDevice};
use crate::limits;
use crate::packet::{Packet, PacketBatch, PacketPool};
use crate::pcap;
use crate::time::{Duration, Instant};

/// A packet's time since 1970 and its bytes.
type Record = (Duration, Box<[u8]>);

/// What the capture counted, written by the shards.
#[derive(Debug, Default)]
pub(super) struct CaptureFigures(AtomicU64);

impl CaptureFigures {
    pub(super) fn lost(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The capture file's writer. It ends when every [`Tap`] has gone.
pub(super) struct Capture {
    sender: Sender<Record>,
    figures: Arc<CaptureFigures>,
    /// What to add to a monotonic time for a time since 1970.
    epoch: Duration,
    writer: JoinHandle<io::Result<()>>,
}

impl Capture {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = pcap::Writer::new(BufWriter::with_capacity(1 << 18, File::create(path)?))?;
        let (sender, records) = crossbeam_channel::bounded(limits::CAPTURE_PACKETS);
        let writer =
            std::thread::Builder::new().name("bywash-pcap".into()).spawn(move || write(file, &records))?;
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let epoch = since_epoch.unwrap_or_default().saturating_sub(sys::monotonic() - Instant::ZERO);
        Ok(Self { sender, figures: Arc::default(), epoch, writer })
    }

    pub(super) fn figures(&self) -> Arc<CaptureFigures> {
        Arc::clone(&self.figures)
    }

    /// What makes a [`Tap`] of a device; it is sent to the device's thread.
    pub(super) fn recorder(&self) -> Recorder {
        Recorder {
            sender: self.sender.clone(),
            figures: self.figures(),
            epoch: self.epoch,
            scratch: Vec::new(),
        }
    }

    /// Waits until every tap has gone and the file is complete.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.sender);
        self.writer.join().unwrap_or_else(|_| Err(io::Error::other("the capture's writer panicked")))
    }
}

/// The writer's thread. The file is flushed whenever no packet waits, so that it can be followed as it grows.
fn write(mut file: pcap::Writer<BufWriter<File>>, records: &Receiver<Record>) -> io::Result<()> {
    while let Ok((time, bytes)) = records.recv() {
        file.write_bytes(time, &bytes)?;
        for (time, bytes) in records.try_iter() {
            file.write_bytes(time, &bytes)?;
        }
        file.flush()?;
    }
    file.flush()
}

/// One shard's way to the writer.
pub(super) struct Recorder {
    sender: Sender<Record>,
    figures: Arc<CaptureFigures>,
    epoch: Duration,
    scratch: Vec<u8>,
}

impl Recorder {
    pub(super) fn tap(self, device: Box<dyn WaitDevice>) -> Tap {
        Tap { device, recorder: self }
    }

    fn copy(&mut self, packet: &Packet) -> Box<[u8]> {
        packet.copy_to(&mut self.scratch);
        self.scratch.as_slice().into()
    }

    fn send(&self, now: Instant, bytes: Box<[u8]>) {
        let time = (now - Instant::ZERO) + self.epoch;
        if self.sender.try_send((time, bytes)).is_err() {
            self.figures.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A device whose traffic is recorded.
pub(super) struct Tap {
    device: Box<dyn WaitDevice>,
    recorder: Recorder,
}

impl Device for Tap {
    fn capabilities(&self) -> &Capabilities {
        self.device.capabilities()
    }

    fn pool(&self) -> &PacketPool {
        self.device.pool()
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        self.receive_on(0, batch, budget)
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        self.transmit_on(0, batch)
    }

    fn transmit_room(&mut self) -> usize {
        self.device.transmit_room()
    }

    fn links(&self) -> usize {
        self.device.links()
    }

    fn capabilities_of(&self, link: usize) -> &Capabilities {
        self.device.capabilities_of(link)
    }

    fn receive_on(&mut self, link: usize, batch: &mut PacketBatch, budget: usize) -> usize {
        let old = batch.len();
        let received = self.device.receive_on(link, batch, budget);
        if received > 0 {
            let now = sys::monotonic();
            for packet in batch.range(old..) {
                let bytes = self.recorder.copy(packet);
                self.recorder.send(now, bytes);
            }
        }
        received
    }

    /// The packets are copied first, since the device keeps what it takes; those it did not take are forgotten again.
    fn transmit_on(&mut self, link: usize, batch: &mut PacketBatch) -> usize {
        let room = self.device.transmit_room_on(link).min(batch.len());
        let copies: Vec<_> = batch.range(..room).map(|packet| self.recorder.copy(packet)).collect();
        let now = sys::monotonic();
        let sent = self.device.transmit_on(link, batch);
        copies.into_iter().take(sent).for_each(|bytes| self.recorder.send(now, bytes));
        sent
    }

    fn transmit_room_on(&mut self, link: usize) -> usize {
        self.device.transmit_room_on(link)
    }
}

impl WaitDevice for Tap {
    fn wait(&mut self, wake: RawFd, timeout: Option<Duration>) -> io::Result<()> {
        self.device.wait(wake, timeout)
    }

    fn statistics(&mut self) -> Vec<(&'static str, &'static str, u64)> {
        self.device.statistics()
    }

    fn steering(&mut self) -> &mut dyn Steering {
        self.device.steering()
    }
}
