//! A service over HTTP that says where users belong, or whatever its mood is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::net::{End, Service};
use crate::plan::Mood;

/// The longest request that imapool would make.
const LONGEST: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Directory(Mutex<State>, &'static str);

#[derive(Debug)]
struct State {
    mood: Mood,
    places: BTreeMap<String, &'static str>,
    /// Where each user has belonged at any time.
    ever: BTreeSet<(String, &'static str)>,
}

impl Directory {
    /// `default`: where those belong of whom nothing is said.
    pub(crate) fn new(default: &'static str) -> Arc<Self> {
        let state = State { mood: Mood::Good, places: BTreeMap::new(), ever: BTreeSet::new() };
        Arc::new(Self(Mutex::new(state), default))
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.0.lock().mood = mood;
    }

    /// A user belongs to this backend from now on.
    pub(crate) fn says(&self, user: String, backend: &'static str) {
        let mut state = self.0.lock();
        state.ever.insert((user.clone(), backend));
        state.places.insert(user, backend);
    }

    /// Whether it has ever said so.
    pub(crate) fn has_said(&self, user: &str, backend: &str) -> bool {
        let state = self.0.lock();
        let mut said = state.ever.iter().filter(|(known, _)| known == user);
        said.any(|(_, place)| *place == backend) || backend == self.1
    }

    pub(crate) fn service(self: &Arc<Self>) -> Service {
        let directory = Arc::clone(self);
        Arc::new(move |end| {
            let directory = Arc::clone(&directory);
            tokio::spawn(async move { directory.serve(end).await });
        })
    }

    async fn serve(&self, mut end: End) {
        let mut input = Vec::new();
        loop {
            while !input.ends_with(b"\r\n\r\n") {
                if input.len() > LONGEST || end.read_buf(&mut input).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let request = String::from_utf8_lossy(&std::mem::take(&mut input)).to_ascii_lowercase();
            let user = request.lines().find_map(|line| line.strip_prefix("auth-user: ")).unwrap_or_default().to_owned();
            let answer = |status: &str, fields: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{fields}\r\n");
            let (mood, place) = {
                let state = self.0.lock();
                (state.mood, state.places.get(&user).copied().unwrap_or(self.1))
            };
            let named = |server: &str| format!("Auth-Status: OK\r\nAuth-Server: {server}\r\n");
            let text = match mood {
                Mood::Good => answer("200 OK", &named(place)),
                Mood::Lies => answer("200 OK", &named("10.0.0.7\r\nAuth-Port: 143")),
                Mood::Fails => answer("503 Out of order", ""),
                Mood::Babbles => "* OK IMAP4rev1 ready\r\n".to_owned(),
                Mood::HangsUp => return,
                Mood::Silent => continue,
            };
            if end.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
