//! gRPC over one HTTP/2 connection: unary calls, and streams in both directions.
//!
//! Written on `h2` itself: a full client costs the load generator more than it adds here.

use std::marker::PhantomData;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{SendRequest, handshake};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A connection to a server.
pub struct Channel {
    requests: SendRequest<Bytes>,
    authority: String,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Closes the socket: the connection of a client that has gone.
        self.driver.abort();
    }
}

impl Channel {
    /// Connects to a port of this host.
    pub async fn connect(port: u16) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let (requests, connection) = handshake(socket).await?;
        let driver = tokio::task::spawn_local(async move {
            // Its end shows in the calls that are under way.
            let _ = connection.await;
        });
        Ok(Self { requests, authority: format!("127.0.0.1:{port}"), driver })
    }

    /// One request, one answer.
    pub async fn unary<A: Message + Default>(
        &mut self,
        path: &str,
        request: &impl Message,
    ) -> Result<A> {
        let (answer, mut body) = self.open(path).await?;
        body.send_data(frame(request), true)?;
        let answer = answer.await?;
        refused(answer.headers())?;
        let mut stream = Streaming::<A> {
            output: body,
            input: Input::Open(answer.into_body()),
            buffer: BytesMut::new(),
            kind: PhantomData,
        };
        let message = stream.message().await?;
        stream.finish().await?;
        Ok(message)
    }

    /// Opens a stream with its first message.
    pub async fn stream<A: Message + Default>(
        &mut self,
        path: &str,
        first: &impl Message,
    ) -> Result<Streaming<A>> {
        let (answer, mut output) = self.open(path).await?;
        output.send_data(frame(first), false)?;
        let input = Input::Awaited(answer);
        Ok(Streaming { output, input, buffer: BytesMut::new(), kind: PhantomData })
    }

    async fn open(
        &mut self,
        path: &str,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>)> {
        let request = Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut ready = self.requests.clone().ready().await?;
        Ok(ready.send_request(request, false)?)
    }
}

/// Messages that follow one another on one HTTP/2 stream.
pub struct Streaming<A> {
    output: SendStream<Bytes>,
    input: Input,
    buffer: BytesMut,
    kind: PhantomData<A>,
}

enum Input {
    Awaited(h2::client::ResponseFuture),
    Open(RecvStream),
}

impl<A: Message + Default> Streaming<A> {
    /// Sends another message.
    pub async fn send(&mut self, message: &impl Message) -> Result<()> {
        Ok(self.output.send_data(frame(message), false)?)
    }

    /// Waits for the next message.
    pub async fn message(&mut self) -> Result<A> {
        if let Input::Awaited(answer) = &mut self.input {
            let answer = answer.await?;
            refused(answer.headers())?;
            self.input = Input::Open(answer.into_body());
        }
        let Input::Open(input) = &mut self.input else { bail!("the answer has no body") };
        loop {
            if let Some(message) = split(&mut self.buffer)? {
                return Ok(A::decode(message)?);
            }
            let Some(data) = input.data().await else {
                let trailers = input.trailers().await?.unwrap_or_default();
                refused(&trailers)?;
                bail!("the stream has ended");
            };
            let data = data?;
            input.flow_control().release_capacity(data.len())?;
            self.buffer.put(data);
        }
    }

    /// Reads the end of the stream: one that is dropped before it is reset, which costs both sides.
    async fn finish(&mut self) -> Result<()> {
        let Input::Open(input) = &mut self.input else { return Ok(()) };
        while input.data().await.is_some() {}
        refused(&input.trailers().await?.unwrap_or_default())
    }
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("the messages of a benchmark are small"));
    message.encode(&mut bytes).expect("the buffer grows as needed");
    bytes.freeze()
}

fn split(buffer: &mut BytesMut) -> Result<Option<BytesMut>> {
    if buffer.len() < PREFIX {
        return Ok(None);
    }
    let length = buffer.get(1..PREFIX).context("a prefix has five bytes")?.get_u32();
    let length = usize::try_from(length)?;
    if buffer.len() < PREFIX + length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length)))
}

fn refused(headers: &HeaderMap) -> Result<()> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            let text = headers.get("grpc-message").and_then(|text| text.to_str().ok());
            bail!("grpc-status {status:?}: {}", text.unwrap_or_default())
        }
        _ => Ok(()),
    }
}
