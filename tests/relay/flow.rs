//! Whoever is slow slows down the other side, and nothing piles up between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use imapool::config::PoolMode;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::owner::{outer, owner};
use crate::support::{Gate, soon};

/// More than all sockets between would hold together.
const WHOLE: usize = 256 << 20;
const MOST: usize = 96 << 20;
const CHUNK: usize = 64 << 10;

async fn pour(sink: &mut (impl AsyncWrite + Unpin), poured: &AtomicUsize) {
    let chunk: Vec<u8> = (0..CHUNK).map(|place| (place % 251) as u8).collect();
    for _ in 0..WHOLE / CHUNK {
        sink.write_all(&chunk).await.unwrap();
        poured.fetch_add(CHUNK, Ordering::Relaxed);
    }
    sink.flush().await.unwrap();
}

async fn drink(source: &mut (impl AsyncRead + Unpin)) {
    let wanted: Vec<u8> = (0..CHUNK).map(|place| (place % 251) as u8).collect();
    let mut chunk = vec![0; CHUNK];
    for _ in 0..WHOLE / CHUNK {
        source.read_exact(&mut chunk).await.unwrap();
        assert!(chunk == wanted);
    }
}

/// Waits until nothing more is taken.
async fn stalled(poured: &AtomicUsize) -> usize {
    soon("the flow to stall", async {
        let (mut before, mut same) = (0, 0);
        while same < 40 && before < WHOLE {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = poured.load(Ordering::Relaxed);
            same = if now == before && now > 0 { same + 1 } else { 0 };
            before = now;
        }
        before
    })
    .await
}

#[tokio::test]
async fn a_slow_client() {
    let poured = Arc::new(AtomicUsize::new(0));
    let ours = Arc::clone(&poured);
    let replica = owner(move |mut conn, _| {
        let poured = Arc::clone(&ours);
        async move {
            conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in\nC: POUR").await;
            pour(&mut conn.stream, &poured).await;
        }
    })
    .await;
    let harness = outer(&replica, PoolMode::Multiplex).await;
    let mut client = harness.login("u").await;
    client.send("a POUR\r\n").await;
    let most = stalled(&poured).await;
    assert!(most < MOST, "{most} octets were taken for a client that reads none");
    tokio::time::timeout(Duration::from_secs(120), drink(&mut client.stream)).await.unwrap();
    drop(client);
    harness.finish().await;
}

#[tokio::test]
async fn a_slow_owner() {
    let (gate, reads) = Gate::pair();
    let (done, all_read) = Gate::pair();
    let replica = owner(move |mut conn, _| {
        let (reads, done) = (reads.clone(), done.clone());
        async move {
            conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
            reads.passed().await;
            drink(&mut conn.stream).await;
            done.open();
            conn.gone().await;
        }
    })
    .await;
    let harness = outer(&replica, PoolMode::Multiplex).await;
    let client = harness.login("u").await;
    let poured = Arc::new(AtomicUsize::new(0));
    let mut stream = client.into_stream();
    let ours = Arc::clone(&poured);
    let pouring = tokio::spawn(async move {
        pour(&mut stream, &ours).await;
        stream
    });
    let most = stalled(&poured).await;
    assert!(most < MOST, "{most} octets were taken for an owner that reads none");
    gate.open();
    let stream = tokio::time::timeout(Duration::from_secs(120), pouring).await.unwrap().unwrap();
    all_read.passed().await;
    drop(stream);
    harness.finish().await;
}
