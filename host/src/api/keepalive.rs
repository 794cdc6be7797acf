//! How often clients may ask for a sign of life: grpc-go's enforcement (internal/transport/http2_server.go), below HTTP/2.
//!
//! The h2 crate answers pings by itself and does not tell of them, so this looks at the frames as they pass: their heads
//! only, nine bytes each. A client that pings too often is sent GOAWAY with the debug data that grpc's clients look for,
//! and then sees the end of the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits;

const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;
/// GOAWAY: 22 bytes, type 7, stream 0; all streams were looked at; ENHANCE_YOUR_CALM.
const TOO_MANY_PINGS: &[u8] =
    b"\x00\x00\x16\x07\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x0btoo_many_pings";

/// A position in a sequence of frames.
#[derive(Debug)]
struct Walker {
    head: [u8; HEAD_BYTES],
    /// How much of the head is there.
    have: usize,
    /// Bytes before the next head.
    skip: usize,
}

impl Walker {
    fn behind(skip: usize) -> Walker {
        Walker { head: [0; HEAD_BYTES], have: 0, skip }
    }

    fn is_at_boundary(&self) -> bool {
        self.have == 0 && self.skip == 0
    }

    /// Calls `frame` with the type and the flags of each frame that begins in `bytes`.
    fn walk(&mut self, mut bytes: &[u8], mut frame: impl FnMut(u8, u8)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                self.have = 0;
                let [high, middle, low, kind, flags, ..] = self.head;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                frame(kind, flags);
            }
        }
    }
}

/// What grpc-go knows of the pings of a connection.
#[derive(Debug)]
struct Pings {
    min_time: Duration,
    /// Calls that are open.
    calls: Arc<AtomicUsize>,
    last: Option<Instant>,
    strikes: u32,
    /// The server has sent something since the last ping: then a ping is no strike.
    forgiven: bool,
}

impl Pings {
    /// Whether there were too many.
    fn count(&mut self, now: Instant) -> bool {
        let last = self.last.replace(now);
        if std::mem::take(&mut self.forgiven) {
            self.strikes = 0;
            return false;
        }
        let is_idle = self.calls.load(Ordering::Relaxed) == 0;
        let apart = if is_idle { limits::IDLE_PING_INTERVAL } else { self.min_time };
        if last.is_some_and(|last| last + apart > now) {
            self.strikes += 1;
        }
        self.strikes > limits::PING_STRIKES
    }
}

/// A server's connection on which pings are counted.
#[derive(Debug)]
pub(super) struct Guarded<T> {
    inner: T,
    reading: Walker,
    writing: Walker,
    pings: Pings,
    /// What is left to be written before the end.
    farewell: Option<&'static [u8]>,
}

impl<T> Guarded<T> {
    /// Guards a connection before its first byte. A client begins with `preface_bytes` that are no frame; `calls` are
    /// the open ones.
    pub(super) fn new(
        inner: T,
        preface_bytes: usize,
        min_time: Duration,
        calls: Arc<AtomicUsize>,
    ) -> Guarded<T> {
        let pings = Pings { min_time, calls, last: None, strikes: 0, forgiven: false };
        let (reading, writing) = (Walker::behind(preface_bytes), Walker::behind(0));
        Guarded { inner, reading, writing, pings, farewell: None }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let forgiven = &mut self.pings.forgiven;
        self.writing.walk(bytes, |kind, _| *forgiven |= matches!(kind, DATA | HEADERS));
    }
}

impl<T: AsyncWrite + Unpin> Guarded<T> {
    /// Says why, and ends. Between frames only; a client that does not even read is just left.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.farewell.filter(|rest| !rest.is_empty()) {
            if !self.writing.is_at_boundary() {
                break;
            }
            let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if written == 0 {
                break;
            }
            self.farewell = Some(&rest[written..]);
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.farewell.is_none() {
            let before = buffer.filled().len();
            std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
            let pings = &mut this.pings;
            let mut too_many = false;
            this.reading.walk(&buffer.filled()[before..], |kind, flags| {
                if kind == PING && flags & ACK == 0 {
                    too_many |= pings.count(Instant::now());
                }
            });
            if !too_many {
                return Poll::Ready(Ok(()));
            }
            buffer.set_filled(before);
            this.farewell = Some(TOO_MANY_PINGS);
        }
        // The end of what can be read, once the client has been told.
        this.poll_end(cx)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.wrote(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        let mut rest = written;
        for slice in slices {
            let part = rest.min(slice.len());
            self.wrote(&slice[..part]);
            rest -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let frames =
            b"PRI\x00\x00\x02\x06\x00\x00\x00\x00\x00ab\x00\x00\x00\x01\x05\x00\x00\x00\x01";
        for cut in 1..frames.len() {
            let mut walker = Walker::behind(3);
            let mut found = Vec::new();
            for piece in frames.chunks(cut) {
                walker.walk(piece, |kind, flags| found.push((kind, flags)));
            }
            assert_eq!(found, [(PING, 0), (HEADERS, 5)], "{cut}");
            assert!(walker.is_at_boundary());
        }
    }

    #[test]
    fn pings_are_counted_as_grpc_go_counts_them() {
        let calls = Arc::new(AtomicUsize::new(1));
        let min_time = Duration::from_secs(5);
        let mut pings = Pings { min_time, calls, last: None, strikes: 0, forgiven: false };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // Often enough, and after answers at any time.
        assert!(!pings.count(at(0)) && !pings.count(at(5)) && !pings.count(at(10)));
        for _ in 0..10 {
            pings.forgiven = true;
            assert!(!pings.count(at(10)));
        }
        // The third that comes too early is one too many.
        assert!(!pings.count(at(11)) && !pings.count(at(12)) && pings.count(at(13)));
        // Without a call, five seconds are too early.
        pings.forgiven = true;
        pings.calls.store(0, Ordering::Relaxed);
        assert!(!pings.count(at(20)) && !pings.count(at(30)) && !pings.count(at(40)));
        assert!(pings.count(at(50)));
    }

    #[test]
    fn the_farewell_is_one_frame() {
        let mut walker = Walker::behind(0);
        let mut found = Vec::new();
        walker.walk(TOO_MANY_PINGS, |kind, flags| found.push((kind, flags)));
        assert_eq!(found, [(7, 0)]);
        assert!(walker.is_at_boundary());
    }
}
