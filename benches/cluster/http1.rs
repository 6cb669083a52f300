//! The least HTTP/1.1 that a load generator needs: ready bytes out, answers split by length.
//!
//! A real client costs more processor time than the daemon: on two cores the figures would be its.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A connection to a daemon's socket.
pub struct Http {
    socket: UnixStream,
    /// Bytes that were read and not used yet.
    input: Vec<u8>,
    /// Where the unused bytes begin.
    used: usize,
    output: Vec<u8>,
}

/// The head of an answer.
pub struct Head {
    /// The status code.
    pub status: u16,
    /// The length of the body; none when it is chunked.
    length: Option<usize>,
}

impl Http {
    /// Connects to a socket.
    pub async fn connect(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path).await;
        let socket = socket.with_context(|| format!("cannot connect to {}", path.display()))?;
        Ok(Self { socket, input: Vec::with_capacity(4096), used: 0, output: Vec::new() })
    }

    /// Sends a request and reads its whole answer.
    pub async fn call(&mut self, method: &str, target: &str, body: &[u8]) -> Result<(u16, &[u8])> {
        let head = self.begin(method, target, body).await?;
        let length = head.length.context("an answer of unknown length")?;
        while self.input.len() - self.used < length {
            self.fill().await?;
        }
        let from = self.used;
        self.used += length;
        Ok((head.status, &self.input[from..from + length]))
    }

    /// Sends a request and reads the head of its answer.
    pub async fn begin(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Head> {
        self.output.clear();
        for part in [method, " ", target, " HTTP/1.1\r\nhost: localhost\r\n"] {
            self.output.extend_from_slice(part.as_bytes());
        }
        if !body.is_empty() {
            let length = format!("content-length: {}\r\n", body.len());
            self.output.extend_from_slice(length.as_bytes());
        }
        self.output.extend_from_slice(b"\r\n");
        self.output.extend_from_slice(body);
        self.socket.write_all(&self.output).await?;
        self.head().await
    }

    /// The next line of a chunked body.
    pub async fn line(&mut self) -> Result<Vec<u8>> {
        // The daemon writes each message as one chunk: size, line, empty line.
        let size = self.text_line().await?;
        let size = std::str::from_utf8(&size)?.trim();
        let size = usize::from_str_radix(size, 16).context("not the size of a chunk")?;
        if size == 0 {
            bail!("the stream has ended");
        }
        while self.input.len() - self.used < size + 2 {
            self.fill().await?;
        }
        let line = self.input[self.used..self.used + size].to_vec();
        self.used += size + 2;
        Ok(line)
    }

    async fn text_line(&mut self) -> Result<Vec<u8>> {
        loop {
            let unused = &self.input[self.used..];
            if let Some(at) = unused.iter().position(|byte| *byte == b'\n') {
                let line = unused[..at].to_vec();
                self.used += at + 1;
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn head(&mut self) -> Result<Head> {
        let end = loop {
            let unused = &self.input[self.used..];
            if let Some(at) = unused.windows(4).position(|window| window == b"\r\n\r\n") {
                break self.used + at;
            }
            self.fill().await?;
        };
        let text = std::str::from_utf8(&self.input[self.used..end])?;
        let status = text.get(9..12).context("not a status line")?.parse()?;
        let mut length = Some(0);
        for line in text.split("\r\n").skip(1) {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                length = None;
            }
        }
        self.used = end + 4;
        Ok(Head { status, length })
    }

    async fn fill(&mut self) -> Result<()> {
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
        }
        if self.socket.read_buf(&mut self.input).await? == 0 {
            bail!("the daemon closed the connection");
        }
        Ok(())
    }
}
