//! One fetch: follow redirects, write the body where it should go, say how it went.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blocking::{Unblock, unblock};
use bywash::runtime::time::timeout;
use bywash::runtime::{BoxError, Context};
use futures_lite::{AsyncWrite, AsyncWriteExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, LOCATION};
use hyper::{Response, StatusCode, Uri};
use sha2::{Digest, Sha256};

use super::{Connection, GetError, fast_open, location};
use crate::cli::GetArgs;
use crate::error::AppError;
use crate::http::sink::hex;
use crate::stack;
use crate::units::bytes_for_people;

/// Bytes that wait for the file: half a second of a slow disk. When they do, nothing more is read, and TCP's window slows
/// the server down.
const WRITE_BEHIND_BYTES: usize = 4 << 20;
/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What to do.
#[derive(Clone)]
struct Plan {
    url: Uri,
    output: PathBuf,
    sha256: bool,
    quiet: bool,
    redirects_max: u32,
    connect_timeout: Duration,
    stall_timeout: Duration,
    fastopen: bool,
}

/// What came of it.
type Outcome = Result<Done, GetError>;

/// A fetch that worked.
struct Done {
    status: StatusCode,
    bytes: u64,
    elapsed: Duration,
    sha256: Option<String>,
    fastopen: Option<String>,
}

/// Fetches `url`.
///
/// # Errors
/// As [`super::run`].
pub fn run(args: &GetArgs, url: Uri) -> Result<(), AppError> {
    let plan = Plan {
        url,
        output: args.output.clone(),
        sha256: args.sha256,
        quiet: args.quiet,
        redirects_max: args.max_redirects,
        connect_timeout: args.connect_timeout,
        stall_timeout: args.stall_timeout,
        fastopen: args.fastopen,
    };
    let quiet = plan.quiet;
    let outcome: Arc<Mutex<Option<Outcome>>> = Arc::default();
    let shared = outcome.clone();
    let prepared = stack::prepare(&args.stack)?;
    let running = prepared.start(&format!("get {}", args.url), move |context| {
        first_shard(plan.clone(), context, shared.clone())
    })?;
    running.wait()?;
    let outcome = outcome.lock().map_or(None, |mut outcome| outcome.take());
    match outcome {
        Some(Ok(done)) => {
            if !quiet {
                eprintln!("{}", done.line());
                if let Some(fastopen) = &done.fastopen {
                    eprintln!("{fastopen}");
                }
            }
            if let Some(sha256) = done.sha256 {
                eprintln!("sha256 {sha256}");
            }
            Ok(())
        }
        Some(Err(error)) => Err(AppError::Unsuccessful(error.to_string())),
        None => Err(AppError::Unsuccessful("interrupted".into())),
    }
}

impl Done {
    fn line(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { (self.bytes as f64 / seconds) as u64 } else { 0 };
        format!("{}, {} bytes in {seconds:.3} s, {}/s", self.status, self.bytes, bytes_for_people(rate))
    }
}

/// The first shard fetches; the others hand over what comes to their queues.
async fn first_shard(
    plan: Plan,
    context: Context,
    outcome: Arc<Mutex<Option<Outcome>>>,
) -> Result<(), BoxError> {
    if context.shard() != 0 {
        return Ok(());
    }
    let interrupted = async {
        context.shutdown().await;
        None
    };
    let fetched = async {
        match stack::address_within(&context, plan.connect_timeout).await {
            Ok(()) => Some(fetch(&plan).await),
            Err(error) => Some(Err(error.into())),
        }
    };
    let result = futures_lite::future::or(fetched, interrupted).await;
    if let Ok(mut outcome) = outcome.lock() {
        *outcome = result;
    }
    Ok(())
}

/// Follows redirects to the answer.
async fn fetch(plan: &Plan) -> Outcome {
    let start = Instant::now();
    let mut url = plan.url.clone();
    let mut redirects = 0;
    loop {
        let report = fast_open::Report::default();
        let mut connection = if plan.fastopen {
            Connection::open_fast(&url, plan.connect_timeout, plan.stall_timeout, report.clone()).await?
        } else {
            Connection::open(&url, plan.connect_timeout, plan.stall_timeout).await?
        };
        let response = connection.get(&url).await?;
        if let Some(next) = redirect(&url, &response)? {
            redirects += 1;
            if redirects > plan.redirects_max {
                return Err(GetError::TooManyRedirects(plan.redirects_max, next));
            }
            tracing::info!("{}: {next}", response.status());
            url = next;
            continue;
        }
        if !response.status().is_success() {
            return Err(GetError::Status(url, response.status()));
        }
        return save(plan, response, start).await.map(|done| Done { fastopen: report.line(), ..done });
    }
}

/// Where the answer sends us, if it is a redirect that a GET follows (RFC 9110 §15.4).
fn redirect(url: &Uri, response: &Response<Incoming>) -> Result<Option<Uri>, GetError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(target) = response.headers().get(LOCATION) else { return Ok(None) };
    let target = String::from_utf8_lossy(target.as_bytes());
    Ok(Some(location::resolve(url, &target)?))
}

/// Writes the body, by way of a thread of its own: the shard keeps answering while a disk or a pipe is slow.
async fn save(plan: &Plan, response: Response<Incoming>, start: Instant) -> Outcome {
    let status = response.status();
    let length = response.headers().get(CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = response.into_body();
    let mut output = Output::open(plan).await?;
    let mut progress = Progress::new(plan, length, start);
    let mut hash = plan.sha256.then(Sha256::new);
    let mut bytes = 0;
    loop {
        let frame = timeout(plan.stall_timeout, body.frame()).await;
        let Some(frame) = frame.map_err(|_| GetError::Stalled(plan.stall_timeout))? else { break };
        let Ok(data) = frame?.into_data() else { continue };
        bytes += data.len() as u64;
        if let Some(hash) = &mut hash {
            hash.update(&data);
        }
        output.write(&data).await?;
        progress.show(bytes);
    }
    output.finish().await?;
    progress.clear();
    let sha256 = hash.map(|hash| hex(&hash.finalize()));
    Ok(Done { status, bytes, elapsed: start.elapsed(), sha256, fastopen: None })
}

/// Where the body goes.
struct Output {
    name: String,
    sink: Pin<Box<dyn AsyncWrite>>,
}

impl Output {
    async fn open(plan: &Plan) -> Result<Self, GetError> {
        let name = plan.output.display().to_string();
        if name == "-" {
            let sink = Box::pin(Unblock::with_capacity(WRITE_BEHIND_BYTES, io::stdout()));
            return Ok(Self { name: "standard output".into(), sink });
        }
        let path = plan.output.clone();
        match unblock(move || File::create(path)).await {
            Ok(file) => Ok(Self { name, sink: Box::pin(Unblock::with_capacity(WRITE_BEHIND_BYTES, file)) }),
            Err(error) => Err(GetError::Write(name, error)),
        }
    }

    /// Hands over `data`; waits while [`WRITE_BEHIND_BYTES`] are on their way.
    async fn write(&mut self, data: &[u8]) -> Result<(), GetError> {
        if let Err(error) = self.sink.write_all(data).await {
            // The writing thread is gone; why, it tells those who ask it to finish.
            let error = self.sink.flush().await.err().unwrap_or(error);
            return Err(GetError::Write(self.name.clone(), error));
        }
        Ok(())
    }

    /// Waits until everything is written.
    async fn finish(mut self) -> Result<(), GetError> {
        self.sink.flush().await.map_err(|error| GetError::Write(self.name, error))
    }
}

/// A line on the terminal that is written over.
struct Progress {
    wanted: bool,
    length: Option<u64>,
    start: Instant,
    shown: Instant,
}

impl Progress {
    fn new(plan: &Plan, length: Option<u64>, start: Instant) -> Self {
        Self { wanted: !plan.quiet && io::stderr().is_terminal(), length, start, shown: Instant::now() }
    }

    fn show(&mut self, bytes: u64) {
        if !self.wanted || self.shown.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.shown = Instant::now();
        let rate = (bytes as f64 / self.start.elapsed().as_secs_f64().max(1e-3)) as u64;
        let of = self.length.filter(|&length| length > 0).map_or(String::new(), |length| {
            format!(" of {} ({:.0} %)", bytes_for_people(length), bytes as f64 * 100.0 / length as f64)
        });
        eprint!("\r\x1b[K{}{of}, {}/s", bytes_for_people(bytes), bytes_for_people(rate));
    }

    fn clear(&self) {
        if self.wanted {
            eprint!("\r\x1b[K");
        }
    }
}
