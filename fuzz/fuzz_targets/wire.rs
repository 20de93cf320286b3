//! What a sandbox may send to the daemon: arbitrary bytes, in arbitrary portions.
//!
//! A message that is taken for whole must be written as it is read back, and no bytes may end the process.
#![no_main]

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use handsd::guest::wire::{FileReply, FromGuest, Receiver, frame};
use libfuzzer_sys::fuzz_target;

/// Less than a socket's buffer, so that a write never waits for the reader.
const PORTION: usize = 4096;

/// Entries that a daemon would ask for in one page.
const PAGE: usize = 1000;

fuzz_target!(|input: (Vec<u8>, bool)| {
    let (bytes, is_files) = input;
    let (mut guest, daemon) = UnixStream::pair().expect("a pair of sockets");
    let mut receiver = Receiver::default();
    for portion in bytes.chunks(PORTION) {
        guest.write_all(portion).expect("the buffer has room");
        receiver.read(daemon.as_fd()).expect("bytes were written");
        let over = if is_files { hear_files(&mut receiver) } else { hear_runs(&mut receiver) };
        if over {
            return;
        }
    }
});

/// Takes out all messages of the control connection; true when the daemon would hang up.
fn hear_runs(receiver: &mut Receiver) -> bool {
    loop {
        match receiver.next_message::<FromGuest>() {
            Ok(Some(message)) => assert_same(&message),
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// The same of a file connection.
fn hear_files(receiver: &mut Receiver) -> bool {
    use handsd::guest::wire::file_reply::Body;
    loop {
        match receiver.next_message::<FileReply>() {
            Ok(Some(message)) => {
                if let Some(Body::Listing(listing)) = &message.body
                    && let Ok(entries) = listing.decode_entries(PAGE)
                {
                    assert!(entries.len() <= PAGE);
                }
                assert_same(&message);
            }
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// Writes a message and reads it back.
fn assert_same<M>(message: &M)
where
    M: prost::Message + Default + PartialEq + std::fmt::Debug,
{
    let bytes = frame(message).expect("it came in a frame");
    assert_eq!(&M::decode(&bytes[4..]).expect("it was just written"), message);
}
