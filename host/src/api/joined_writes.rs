//! Small writes of a connection, held back until the next write or flush.
//!
//! HTTP/2's encoder copies a small frame behind the one before it, and gives a larger one to the socket at once. Where
//! the socket takes several slices in one write, "larger" begins at 256 bytes: an event or a value of that size would
//! be a system call of its own. Here it is told that the socket does not, so that it begins at 1,024. The head of a
//! frame and its payload then come one after the other, and are put together again.
//!
//! What is held is sent before a flush or a shutdown is done; nothing is held across either.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits;

/// A connection that does so.
pub(super) struct JoinedWrites<T> {
    inner: T,
    held: BytesMut,
}

impl<T> JoinedWrites<T> {
    pub(super) fn new(inner: T) -> JoinedWrites<T> {
        JoinedWrites { inner, held: BytesMut::new() }
    }
}

impl<T: AsyncWrite + Unpin> JoinedWrites<T> {
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for JoinedWrites<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for JoinedWrites<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.held.len() + bytes.len() <= limits::HELD_WRITE_BYTES {
            this.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        while !this.held.is_empty() {
            let both = [io::IoSlice::new(&this.held), io::IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            let of_held = written.min(this.held.len());
            this.held.advance(of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    /// See the module's description.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// What reaches the reader's side now.
    fn arrived(reader: &mut (impl AsyncRead + Unpin)) -> usize {
        let mut bytes = [0; 4096];
        let mut buffer = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(reader).poll_read(&mut cx, &mut buffer);
        buffer.filled().len()
    }

    #[tokio::test]
    async fn small_writes_wait_for_a_flush_or_a_large_one() {
        let (near, mut far) = duplex(4096);
        let mut near = JoinedWrites::new(near);
        near.write_all(b"head").await.expect("a write");
        assert_eq!(arrived(&mut far), 0);
        near.flush().await.expect("a flush");
        assert_eq!(arrived(&mut far), 4);
        near.write_all(b"head").await.expect("a write");
        near.write_all(&[7; limits::HELD_WRITE_BYTES]).await.expect("a large write");
        assert_eq!(arrived(&mut far), 4 + limits::HELD_WRITE_BYTES);
    }

    #[tokio::test]
    async fn all_bytes_come_in_order_however_little_the_socket_takes() {
        let sizes = [9, 1_500, 3, 9, limits::HELD_WRITE_BYTES, 1, 5_000, 12];
        let all: Vec<u8> = (0..sizes.iter().sum()).map(|at: usize| at as u8).collect();
        for room in [1, 7, 1_000] {
            let (near, mut far) = duplex(room);
            let sent = all.clone();
            let writing = tokio::spawn(async move {
                let mut near = JoinedWrites::new(near);
                let mut rest = &sent[..];
                for size in sizes {
                    let (now, later) = rest.split_at(size);
                    near.write_all(now).await.expect("a write");
                    rest = later;
                }
                // Sends what is held, without a flush before it.
                near.shutdown().await.expect("a shutdown");
            });
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.expect("all of it");
            writing.await.expect("the writer");
            assert!(read == all, "room for {room}");
        }
    }
}
