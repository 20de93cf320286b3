use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollTimeout, poll};

use super::*;

/// Two sides of a trunk.
struct Pair {
    near: Trunk,
    far: Trunk,
}

impl Pair {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        Self { near: side(ours), far: side(theirs) }
    }

    /// Lets both sides do what they can, until neither can do anything.
    fn settle(&mut self) {
        while turn(&mut self.near) | turn(&mut self.far) {}
    }
}

fn side(socket: UnixStream) -> Trunk {
    let input = socket.try_clone().unwrap();
    Trunk::new(input.into(), socket.into(), Envelope::None, Receiver::default()).unwrap()
}

fn turn(trunk: &mut Trunk) -> bool {
    let (places, mut fds): (Vec<_>, Vec<_>) =
        trunk.interests().map(|(place, fd, flags)| (place, PollFd::new(fd, flags))).unzip();
    poll(&mut fds, PollTimeout::ZERO).unwrap();
    let ready: Vec<_> = fds.iter().map(|fd| fd.any().unwrap()).collect();
    let places = places.into_iter().zip(ready).filter(|(_, is_ready)| *is_ready).map(|(place, _)| place);
    places.collect::<Vec<_>>().into_iter().map(|place| trunk.serve(place).unwrap()).count() > 0
}

fn pipe() -> (File, File) {
    let (read, write) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(read)), File::from(OwnedFd::from(write)))
}

/// A pipe on either side, joined: what is written to one end is read from the other.
fn joined(pair: &mut Pair, channel: u32) -> (File, File) {
    let (source, writer) = pipe();
    let (reader, sink) = pipe();
    pair.near.join(channel, source.into(), Flow::Out).unwrap();
    pair.far.join(channel, sink.into(), Flow::In).unwrap();
    set_nonblocking(&reader.try_clone().unwrap().into()).unwrap();
    set_nonblocking(&writer.try_clone().unwrap().into()).unwrap();
    (writer, reader)
}

/// All that can be read now.
fn drain(reader: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
    }
    bytes
}

#[test]
fn bytes_come_as_they_went_and_so_does_their_end() {
    let mut pair = Pair::new();
    let (mut writer, mut reader) = joined(&mut pair, 7);
    writer.write_all(b"one").unwrap();
    pair.settle();
    assert_eq!(drain(&mut reader), b"one");
    assert_eq!((pair.near.passed(7), pair.far.passed(7)), (Some(3), Some(3)));
    writer.write_all(b"two").unwrap();
    drop(writer);
    pair.settle();
    assert_eq!(drain(&mut reader), b"two");
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the other end is closed");
    assert_eq!((pair.near.passed(7), pair.far.passed(7)), (None, None));
}

#[test]
fn who_reads_nothing_holds_up_his_own_channel_only_and_gets_all_of_it_later() {
    let mut pair = Pair::new();
    let (mut stalled, mut late) = joined(&mut pair, 1);
    let (mut writer, mut reader) = joined(&mut pair, 2);
    let (mut written, block) = (0, vec![b'x'; 10_000]);
    loop {
        match stalled.write(&block) {
            Ok(count) => written += count,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        let before = pair.near.passed(1);
        pair.settle();
        if pair.near.passed(1) == before {
            break;
        }
    }
    let pipes = 2 * (64 << 10);
    assert!(written <= WINDOW + pipes + block.len(), "{written} bytes are on their way");
    writer.write_all(b"alive").unwrap();
    pair.settle();
    assert_eq!(drain(&mut reader), b"alive");
    drop(stalled);
    let mut read = 0;
    while pair.far.passed(1).is_some() || read < written {
        read += drain(&mut late).len();
        pair.settle();
    }
    assert_eq!(read, written);
}

#[test]
fn a_writer_hears_that_nobody_reads() {
    let mut pair = Pair::new();
    let (mut writer, reader) = joined(&mut pair, 1);
    drop(reader);
    writer.write_all(b"x").unwrap();
    pair.settle();
    assert_eq!(pair.near.passed(1), None);
    assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_connection_goes_both_ways_to_one_that_is_held() {
    let mut pair = Pair::new();
    let (mut client, server) = UnixStream::pair().unwrap();
    pair.far.hold(3).unwrap();
    pair.near.join(3, server.into(), Flow::Both).unwrap();
    client.write_all(b"question").unwrap();
    pair.settle();
    assert_eq!(pair.far.take(3), b"question");
    let answer = vec![b'a'; 3 * CHUNK];
    pair.far.send(3, &answer);
    pair.settle();
    let mut read = vec![0; answer.len()];
    client.read_exact(&mut read).unwrap();
    assert_eq!(read, answer);
    pair.far.close(3);
    pair.settle();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_is_said_at_once_on_a_connection_that_is_opened_waits_for_it() {
    let mut pair = Pair::new();
    pair.near.hold(3).unwrap();
    pair.near.say_open(Open { channel: 3, purpose: 1 });
    pair.near.send(3, b"question");
    pair.settle();
    assert_eq!(pair.far.happened(), Some(Happened::Opened(Open { channel: 3, purpose: 1 })));
    let (mut server, theirs) = UnixStream::pair().unwrap();
    pair.far.adopt(3, theirs.into(), Flow::Both).unwrap();
    let mut question = [0; 8];
    server.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
}

/// A connection whose two ends are joined; far ends as the test holds them.
fn connected(pair: &mut Pair, channel: u32) -> (UnixStream, UnixStream) {
    let ((client, near), (server, far)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    pair.near.join(channel, near.into(), Flow::Duplex).unwrap();
    pair.far.join(channel, far.into(), Flow::Duplex).unwrap();
    (client, server)
}

#[test]
fn each_direction_of_a_connection_has_its_own_end() {
    let mut pair = Pair::new();
    let (mut client, mut server) = connected(&mut pair, 5);
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    pair.settle();
    let mut question = String::new();
    server.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    server.write_all(b"answer").unwrap();
    pair.settle();
    assert!(pair.near.passed(5).is_some(), "it goes on the other way");
    drop(server);
    pair.settle();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert_eq!((pair.near.passed(5), pair.far.passed(5)), (None, None));
}

#[test]
fn who_leaves_a_connection_ends_it_for_the_other() {
    let mut pair = Pair::new();
    let (mut client, server) = connected(&mut pair, 5);
    drop(server);
    pair.settle();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    client.write_all(b"nobody reads it").unwrap();
    pair.settle();
    assert_eq!((pair.near.passed(5), pair.far.passed(5)), (None, None));
    assert_eq!(client.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn what_was_accepted_waits_to_be_adopted_with_its_end() {
    let mut pair = Pair::new();
    let (mut client, inside) = UnixStream::pair().unwrap();
    let accepted = Accepted { channel: GUESTS, port: 80 };
    pair.far.join(GUESTS, inside.into(), Flow::Duplex).unwrap();
    pair.far.say_accepted(accepted);
    client.write_all(b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    pair.settle();
    assert_eq!((pair.near.happened(), pair.near.accepted()), (Some(Happened::Accepted(accepted)), 1));
    let (mut daemon, ours) = UnixStream::pair().unwrap();
    pair.near.adopt(GUESTS, ours.into(), Flow::Duplex).unwrap();
    let mut said = String::new();
    daemon.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
    drop(daemon);
    pair.settle();
    assert_eq!((pair.near.accepted(), pair.far.accepted()), (0, 0));
}

#[test]
fn more_than_there_is_room_for_ends_the_trunk() {
    let mut pair = Pair::new();
    let (_reader, sink) = pipe();
    pair.far.join(1, sink.into(), Flow::In).unwrap();
    pair.near.hold(1).unwrap();
    let flood = vec![0; 2 * (WINDOW + wire::MAX_FRAME)];
    pair.near.send(1, &flood);
    let error = loop {
        turn(&mut pair.near);
        if let Err(error) = pair.far.serve(Place::Input) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn what_is_said_of_a_channel_that_is_not_there_is_not_heard() {
    let mut pair = Pair::new();
    pair.near.hold(1).unwrap();
    pair.near.send(1, b"x");
    pair.near.close(1);
    pair.near.say_ready();
    pair.settle();
    assert_eq!(pair.far.happened(), Some(Happened::Ready(Ready { version: wire::VERSION })));
    assert_eq!(pair.far.happened(), None);
}

#[test]
fn dockers_heads_are_taken_off_wherever_they_are_cut() {
    let frame = wire::frame(&Packet { body: None }).unwrap();
    let frame = [&frame[..], &wire::frame(&Open { channel: 300, purpose: 1 }).unwrap()].concat();
    let mut wrapped = Vec::new();
    for piece in frame.chunks(3) {
        wrapped.extend([1, 0, 0, 0]);
        wrapped.extend(u32::try_from(piece.len()).unwrap().to_be_bytes());
        wrapped.extend(piece);
    }
    for size in 1..wrapped.len() {
        let (mut envelope, mut receiver) = (Envelope::docker(), Receiver::default());
        for chunk in wrapped.chunks(size) {
            envelope.open(chunk, &mut receiver).unwrap();
        }
        assert_eq!(receiver.into_rest(), frame, "{size}");
    }
    let huge = [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    assert!(Envelope::docker().open(&huge, &mut Receiver::default()).is_err());
}
