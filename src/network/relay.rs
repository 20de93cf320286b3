//! Bytes between two sockets, in both directions, until both have ended or one has been left half-open for too long.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use super::pace::{Bucket, Pace};

/// Bytes taken at a time. A pair of sockets costs twice this.
const BUFFER: usize = 16 << 10;

/// How long one direction may say nothing after the other has ended. Who waits for the answer to its last word waits no
/// longer than this; a peer that never closes does not keep a connection for ever.
pub const HALF_OPEN_WAIT: Duration = Duration::from_secs(5 * 60);

/// What went through, counted as it goes.
#[derive(Debug, Default)]
pub struct Moved {
    /// Bytes from the first to the second.
    pub forth: AtomicU64,
    /// Bytes from the second to the first.
    pub back: AtomicU64,
}

/// Moves bytes between two streams, no faster than `pace` lets them, and counts them in `moved` and in `all`.
///
/// # Errors
/// The first of either; `TimedOut` for a connection that was left half-open.
pub async fn relay<A, B>(first: A, second: B, pace: &Pace, moved: &Moved, all: &Moved) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (first_reader, first_writer) = tokio::io::split(first);
    let (second_reader, second_writer) = tokio::io::split(second);
    let mut forth = pin!(pump(first_reader, second_writer, &pace.forth, [&moved.forth, &all.forth]));
    let mut back = pin!(pump(second_reader, first_writer, &pace.back, [&moved.back, &all.back]));
    tokio::select! {
        ended = &mut forth => { ended?; finish(back, &moved.back).await }
        ended = &mut back => { ended?; finish(forth, &moved.forth).await }
    }
}

/// Waits for the other direction, as long as it moves.
async fn finish(mut pump: impl Future<Output = io::Result<()>> + Unpin, moved: &AtomicU64) -> io::Result<()> {
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::select! {
            ended = &mut pump => return ended,
            () = sleep(HALF_OPEN_WAIT) => {
                if moved.load(Ordering::Relaxed) == before {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it was left half-open"));
                }
            }
        }
    }
}

async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    pace: &Bucket,
    counters: [&AtomicU64; 2],
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return writer.shutdown().await;
        }
        pace.take(count).await;
        writer.write_all(&buffer[..count]).await?;
        for counter in counters {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_direction_has_its_own_end_and_what_moves_is_not_cut() {
        let ((mut a, left), (right, mut b)) = (duplex(64), duplex(64));
        let (pace, moved, all) = (Pace::default(), Moved::default(), Moved::default());
        let ends = async {
            a.write_all(b"question").await.unwrap();
            a.shutdown().await.unwrap();
            let mut question = String::new();
            b.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, "question");
            // Slower than the wait, all of it together.
            for _ in 0..3 {
                sleep(HALF_OPEN_WAIT / 2).await;
                b.write_all(b"answer").await.unwrap();
            }
            drop(b);
            let mut answer = String::new();
            a.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answeransweranswer");
        };
        let (relayed, ()) = tokio::join!(relay(left, right, &pace, &moved, &all), ends);
        relayed.unwrap();
        for counted in [moved, all] {
            assert_eq!((counted.forth.into_inner(), counted.back.into_inner()), (8, 18));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_left_half_open_is_cut() {
        let ((mut a, left), (right, _b)) = (duplex(64), duplex(64));
        a.shutdown().await.unwrap();
        let began = Instant::now();
        let cut = relay(left, right, &Pace::default(), &Moved::default(), &Moved::default()).await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), HALF_OPEN_WAIT);
    }
}
