//! Messages of a trunk: see [`crate::guest::trunk`].

use prost::Message;

use super::Purpose;

/// What one side of a trunk says to the other.
#[derive(Clone, PartialEq, Message)]
pub struct Packet {
    /// What is said.
    #[prost(oneof = "packet::Body", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub body: Option<packet::Body>,
}

/// Bodies of [`Packet`].
pub mod packet {
    /// See the messages.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// The guest's first word.
        #[prost(message, tag = "1")]
        Ready(super::Ready),
        /// A connection of the daemon's.
        #[prost(message, tag = "2")]
        Open(super::Open),
        /// Bytes of a channel.
        #[prost(message, tag = "3")]
        Data(super::Data),
        /// Room for more of them.
        #[prost(message, tag = "4")]
        Credit(super::Credit),
        /// No more of them.
        #[prost(message, tag = "5")]
        Close(super::Close),
        /// No more of them this way.
        #[prost(message, tag = "6")]
        End(super::End),
        /// A connection from inside.
        #[prost(message, tag = "7")]
        Accepted(super::Accepted),
    }
}

/// The guest serves from now on.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Ready {
    /// [`super::VERSION`] of the guest.
    #[prost(uint32, tag = "1")]
    pub version: u32,
}

/// A channel is a connection to the guest from now on. [`super::Hello`] has been said on it and answered.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Open {
    /// The channel; chosen by the relay, never twice.
    #[prost(uint32, tag = "1")]
    pub channel: u32,
    /// What the connection is for.
    #[prost(enumeration = "Purpose", tag = "2")]
    pub purpose: i32,
}

/// The next bytes of a channel.
#[derive(Clone, PartialEq, Message)]
pub struct Data {
    /// The channel.
    #[prost(uint32, tag = "1")]
    pub channel: u32,
    /// The bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

/// So many bytes of a channel have been taken, and as many more may be sent.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Credit {
    /// The channel.
    #[prost(uint32, tag = "1")]
    pub channel: u32,
    /// Bytes.
    #[prost(uint32, tag = "2")]
    pub bytes: u32,
}

/// A channel is over: its bytes have come to their end, or nobody takes them.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Close {
    /// The channel.
    #[prost(uint32, tag = "1")]
    pub channel: u32,
}

/// Whoever says this sends no more bytes of a channel that goes both ways; the other side may.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct End {
    /// The channel.
    #[prost(uint32, tag = "1")]
    pub channel: u32,
}

/// A channel is a connection from inside to a port on which the guest listens.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Accepted {
    /// The channel; chosen by the guest, from [`GUESTS`] on.
    #[prost(uint32, tag = "1")]
    pub channel: u32,
    /// The port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// The version since which a trunk carries connections and terminals.
pub const CONNECTIONS_SINCE: u32 = 2;

/// The first channel that the guest may choose; those below are the relay's.
pub const GUESTS: u32 = 1 << 31;
