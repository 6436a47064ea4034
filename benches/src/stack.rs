//! What the loads need of a stack under test: frames in, work, frames out, with a small server on port 80 inside.

/// What the server does with its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum App {
    /// Nothing.
    Idle,
    /// Reads everything.
    Sink,
    /// Writes as much as it can.
    Source,
    /// Answers every [`crate::REQUEST_BYTES`] with as many.
    Echo,
    /// Closes when the peer has closed.
    Close,
}

/// One turn of a stack: what has arrived is dealt with, the server does what it can, answers are sent.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Virtual time since the start, in microseconds.
    pub micros: u64,
    /// There may be connections to accept.
    pub accept: bool,
    /// The connections that segments have arrived for, as a readiness interface would tell.
    pub addressed: &'a [u32],
}

/// A stack with a server on [`crate::frames::STACK_ADDR`] and [`crate::frames::STACK_PORT`].
pub trait Stack {
    /// Its name in results.
    const NAME: &'static str;

    /// A stack whose server has at most `connections` connections at a time; connection `number` is kept at place
    /// `number % connections`.
    fn new(app: App, connections: u32) -> Self;

    /// A frame arrives. Stands for the DMA of a NIC and is not measured.
    fn arrive(&mut self, frame: &[u8]);

    /// Stack and server do what there is to do: what is measured.
    fn work(&mut self, turn: &Turn<'_>);

    /// Takes the frames that were sent off the stack. Stands for the DMA of a NIC and is not measured.
    fn sent(&mut self, each: &mut dyn FnMut(&[u8]));

    /// Bytes that the server has read so far.
    fn bytes_read(&self) -> u64;
}

/// [`Stack::work`] under a name by which callgrind knows what to count.
#[inline(never)]
pub fn measured_work<S: Stack>(stack: &mut S, turn: &Turn<'_>) {
    stack.work(turn);
}
