//! nginx asks over HTTP where to send a login: here, always to the one backend.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The listening helper; ends when dropped.
pub(crate) struct AuthHttp {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl AuthHttp {
    pub(crate) fn start(runtime: &Handle, backend: SocketAddr) -> Result<Self> {
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let accepting = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, backend));
            }
        });
        Ok(Self { address, accepting })
    }
}

impl Drop for AuthHttp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(mut stream: TcpStream, backend: SocketAddr) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    while memmem::find(&request, b"\r\n\r\n").is_none() {
        if request.len() > 16 * 1024 || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let (host, port) = (backend.ip(), backend.port());
    let answer = format!("HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {host}\r\nAuth-Port: {port}\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
