//! What clients send: frames of a letter, a length and a body, bounded and checked before anything
//! else looks at them.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};

use super::failure::Failure;

/// Longest first message of a connection.
pub(super) const MOST_STARTUP_BYTES: usize = 10_000;
/// Bytes that are read ahead while a statement runs.
const MOST_AHEAD: usize = 64 << 10;
/// Longest message after that.
pub(super) const MOST_BYTES: usize = 5 << 20;
/// Most values of one message.
const MOST_VALUES: usize = 1 << 15;

/// A message of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Statements, to be answered at once.
    Query(String),
    /// A statement to be kept.
    Parse {
        /// What it will be called; none is a name, too.
        name: String,
        /// The statement.
        sql: String,
        /// Types of its parameters; 0 where the client leaves it open.
        types: Vec<u32>,
    },
    /// Values for a statement.
    Bind {
        /// What the two will be called.
        portal: String,
        /// The statement.
        statement: String,
        /// The values, with the forms that they are in.
        values: Vec<(Form, Option<Bytes>)>,
        /// Forms that columns are wanted in: none, one for all, or one each.
        results: Vec<Form>,
    },
    /// A question for parameters and columns.
    Describe(Target),
    /// Rows are wanted.
    Execute {
        /// Of this portal.
        portal: String,
        /// No more than so many at once.
        most: Option<usize>,
    },
    /// Something can be forgotten.
    Close(Target),
    /// An answer is expected now.
    Flush,
    /// What was sent so far belongs together, and is over.
    Sync,
    /// The password.
    Password(String),
    /// Rows for a COPY, which nobody asked for.
    Copy,
    /// The client is gone.
    Terminate,
}

/// A statement or a portal, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A statement.
    Statement(String),
    /// A statement with its values.
    Portal(String),
}

/// How a value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As people read it.
    #[default]
    Text,
    /// As machines do.
    Binary,
}

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup {
    /// Encryption is asked for.
    Tls,
    /// Kerberos is asked for.
    Kerberos,
    /// A statement of another connection is to be stopped.
    Cancel {
        /// That connection.
        process: i32,
        /// What only its client knows.
        secret: Bytes,
    },
    /// A session.
    Session {
        /// The protocol is 3 point this.
        minor: u16,
        /// Who wants it, and how.
        parameters: Vec<(String, String)>,
    },
}

/// Reads frames. Reading may be given up and begun again at any time.
pub(super) struct Frames<R> {
    reader: R,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite> Frames<S> {
    /// The same, of the half of a stream that is read, and the half that is written.
    pub(super) fn split(self) -> (Frames<ReadHalf<S>>, WriteHalf<S>) {
        let (reader, writer) = tokio::io::split(self.reader);
        let buffer = self.buffer;
        (Frames { reader, buffer }, writer)
    }
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: BytesMut::new(),
        }
    }

    /// The reader, for what wraps it; `None` where bytes behind the last frame have come already:
    /// nobody may slip them in before the connection is encrypted.
    pub(super) fn into_reader(self) -> Option<R> {
        self.buffer.is_empty().then_some(self.reader)
    }

    /// The message that begins a connection; `None` where it closed.
    pub(super) async fn startup(&mut self) -> Result<Option<Startup>, Failure> {
        if !self.fill(4).await? {
            return Ok(None);
        }
        let length = (&self.buffer[..4]).get_u32() as usize;
        if !(8..=MOST_STARTUP_BYTES).contains(&length) {
            return Err(Failure::protocol("this is not how a connection begins"));
        }
        if !self.fill(length).await? {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(length).freeze();
        body.advance(4);
        Startup::read(body).map(Some)
    }

    /// Waits until something came; false where the connection closed.
    pub(super) async fn something(&mut self) -> Result<bool, Failure> {
        self.fill(1).await
    }

    /// Ends when the connection closes, as far as that shows: some bytes that come meanwhile are kept.
    pub(super) async fn closed(&mut self) {
        while self.buffer.len() < MOST_AHEAD {
            let bytes = self.buffer.len() + 1;
            if !matches!(self.fill(bytes).await, Ok(true)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// The next message; `None` where the connection closed.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Failure> {
        self.next_within(MOST_BYTES).await
    }

    /// The same, of no more than so many bytes.
    pub(super) async fn next_within(&mut self, most: usize) -> Result<Option<Message>, Failure> {
        if !self.fill(5).await? {
            return Ok(None);
        }
        let letter = self.buffer[0];
        let length = (&self.buffer[1..5]).get_u32() as usize;
        if !(4..=most).contains(&length) {
            return Err(Failure::protocol(format!(
                "a message of {length} bytes is longer than the {most} that are read"
            )));
        }
        if !self.fill(1 + length).await? {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(1 + length).freeze();
        body.advance(5);
        // Large ones leave no large buffer behind.
        if self.buffer.is_empty() && self.buffer.capacity() > 64 << 10 {
            self.buffer = BytesMut::new();
        }
        Message::read(letter, body).map(Some)
    }

    /// Reads until there are so many bytes; false where the connection closed before.
    async fn fill(&mut self, bytes: usize) -> Result<bool, Failure> {
        while self.buffer.len() < bytes {
            self.buffer.reserve(4 << 10);
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Ok(false),
                Ok(_) => {}
            }
        }
        Ok(true)
    }
}

impl Startup {
    /// Reads what follows the length.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn read(mut body: Bytes) -> Result<Self, Failure> {
        let code = body.try_get_u32().map_err(|_| short())?;
        match code {
            80_877_103 => Ok(Self::Tls),
            80_877_104 => Ok(Self::Kerberos),
            80_877_102 => {
                let process = body.try_get_i32().map_err(|_| short())?;
                Ok(Self::Cancel {
                    process,
                    secret: body,
                })
            }
            version if version >> 16 == 3 => {
                let mut parameters = Vec::new();
                loop {
                    let name = text(&mut body)?;
                    if name.is_empty() {
                        let minor = version as u16;
                        return Ok(Self::Session { minor, parameters });
                    }
                    parameters.push((name, text(&mut body)?));
                }
            }
            _ => Err(Failure::protocol(
                "only version 3 of the protocol is spoken",
            )),
        }
    }
}

impl Message {
    /// Reads a message by its letter and its body.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read(letter: u8, mut body: Bytes) -> Result<Self, Failure> {
        let body = &mut body;
        let message = match letter {
            b'Q' => Self::Query(text(body)?),
            b'P' => Self::Parse {
                name: text(body)?,
                sql: text(body)?,
                types: {
                    let count = count(body, 4)?;
                    let types = (0..count).map(|_| body.try_get_u32().map_err(|_| short()));
                    types.collect::<Result<_, _>>()?
                },
            },
            b'B' => {
                let (portal, statement) = (text(body)?, text(body)?);
                let given = forms(body)?;
                let count = count(body, 4)?;
                if given.len() > 1 && given.len() != count {
                    return Err(Failure::protocol("a Bind has more forms than values"));
                }
                let mut values = Vec::with_capacity(count);
                for number in 0..count {
                    let form = match given.len() {
                        1 => given[0],
                        _ => given.get(number).copied().unwrap_or_default(),
                    };
                    values.push((form, value(body)?));
                }
                Self::Bind {
                    portal,
                    statement,
                    values,
                    results: forms(body)?,
                }
            }
            b'D' => Self::Describe(target(body)?),
            b'C' => Self::Close(target(body)?),
            b'E' => {
                let portal = text(body)?;
                let most = body.try_get_i32().map_err(|_| short())?;
                Self::Execute {
                    portal,
                    most: usize::try_from(most).ok().filter(|most| *most > 0),
                }
            }
            b'H' => Self::Flush,
            b'S' => Self::Sync,
            b'p' => Self::Password(text(body)?),
            b'd' | b'c' | b'f' => Self::Copy,
            b'X' => Self::Terminate,
            _ => return Err(Failure::protocol("a message is of no known kind")),
        };
        Ok(message)
    }
}

/// A text up to the zero behind it.
fn text(body: &mut Bytes) -> Result<String, Failure> {
    let end = body.iter().position(|byte| *byte == 0).ok_or_else(short)?;
    let bytes = body.split_to(end);
    body.advance(1);
    String::from_utf8(bytes.into())
        .map_err(|_| Failure::new("22021", "a text of a message is no UTF-8"))
}

fn count(body: &mut Bytes, least: usize) -> Result<usize, Failure> {
    let count = usize::from(body.try_get_u16().map_err(|_| short())?);
    match count <= MOST_VALUES && count * least <= body.len() {
        true => Ok(count),
        false => Err(short()),
    }
}

fn forms(body: &mut Bytes) -> Result<Vec<Form>, Failure> {
    let count = count(body, 2)?;
    let forms = (0..count).map(|_| match body.try_get_u16() {
        Ok(0) => Ok(Form::Text),
        Ok(1) => Ok(Form::Binary),
        Ok(_) => Err(Failure::protocol("values are text (0) or binary (1)")),
        Err(_) => Err(short()),
    });
    forms.collect()
}

fn value(body: &mut Bytes) -> Result<Option<Bytes>, Failure> {
    let length = body.try_get_i32().map_err(|_| short())?;
    let Ok(length) = usize::try_from(length) else {
        return Ok(None);
    };
    match length <= body.len() {
        true => Ok(Some(body.split_to(length))),
        false => Err(short()),
    }
}

fn target(body: &mut Bytes) -> Result<Target, Failure> {
    let letter = body.try_get_u8().map_err(|_| short())?;
    let name = text(body)?;
    match letter {
        b'S' => Ok(Target::Statement(name)),
        b'P' => Ok(Target::Portal(name)),
        _ => Err(Failure::protocol(
            "there are statements (S) and portals (P)",
        )),
    }
}

fn short() -> Failure {
    Failure::protocol("a message ends before what it says it holds")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(letter: u8, body: &[u8]) -> Result<Message, Failure> {
        Message::read(letter, Bytes::copy_from_slice(body))
    }

    #[test]
    fn messages_are_read() {
        assert_eq!(
            read(b'Q', b"SELECT 1\0").unwrap(),
            Message::Query("SELECT 1".to_owned())
        );
        let parse = read(b'P', b"s\0SELECT $1\0\0\x02\0\0\0\x14\0\0\0\0").unwrap();
        let types = vec![20, 0];
        let (name, sql) = ("s".to_owned(), "SELECT $1".to_owned());
        assert_eq!(parse, Message::Parse { name, sql, types });
        let bind = read(
            b'B',
            b"\0s\0\0\x01\0\x01\0\x02\0\0\0\x01a\xff\xff\xff\xff\0\0",
        )
        .unwrap();
        let values = vec![
            (Form::Binary, Some(Bytes::from_static(b"a"))),
            (Form::Binary, None),
        ];
        assert_eq!(
            bind,
            Message::Bind {
                portal: String::new(),
                statement: "s".to_owned(),
                values,
                results: Vec::new()
            }
        );
        let most = read(b'E', b"\0\0\0\0\x05").unwrap();
        assert_eq!(
            most,
            Message::Execute {
                portal: String::new(),
                most: Some(5)
            }
        );
        let cancel = Startup::read(Bytes::from_static(b"\x04\xd2\x16\x2e\0\0\0\x07abcd")).unwrap();
        let secret = Bytes::from_static(b"abcd");
        assert_eq!(cancel, Startup::Cancel { process: 7, secret });
        let session = Startup::read(Bytes::from_static(b"\0\x03\0\0user\0ann\0\0")).unwrap();
        let user = ("user".to_owned(), "ann".to_owned());
        let parameters = vec![user];
        assert_eq!(
            session,
            Startup::Session {
                minor: 0,
                parameters
            }
        );
        for (letter, body) in [
            (b'Q', &b"SELECT"[..]),
            (b'Q', b"\xff\0"),
            (b'P', b"s\0x\0\xff\xff"),
            (b'B', b"\0\0\0\0\0\x01\0\0\0\x09"),
            (b'B', b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\0\0\0"),
            (b'E', b"\0"),
            (b'D', b"X\0"),
            (b'?', b""),
        ] {
            assert!(read(letter, body).is_err(), "{letter} {body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(letter: u8, body: Vec<u8>) {
            let _any = Startup::read(Bytes::from(body.clone()));
            let _any = Message::read(letter, Bytes::from(body));
        }
    }
}
