//! A headless Chromium, spoken to by the DevTools protocol over a pair of pipes.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::LIMIT;

const CHROMIUM: &str = "chromium";

/// Nothing but this host can be reached, and the browser does nothing of its own.
const ARGUMENTS: [&str; 14] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
];

pub(crate) struct Browser {
    process: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    last: u64,
    answers: HashMap<u64, Value>,
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn is_installed() -> bool {
        Command::new(CHROMIUM).arg("--version").output().is_ok_and(|output| output.status.success())
    }

    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2", CHROMIUM]).args(ARGUMENTS);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (send, messages) = channel();
        thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let (answers, events) = Default::default();
        let mut this = Self { process, input, messages, session: None, last: 0, answers, events, _profile: profile };
        let target = this.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = this.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        this.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Network", "Log"] {
            this.call(&format!("{domain}.enable"), json!({}));
        }
        this
    }

    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        self.input.flush().unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.hear(deadline.saturating_duration_since(Instant::now()), method);
        }
    }

    fn hear(&mut self, limit: Duration, what: &str) {
        let message = self.messages.recv_timeout(limit).unwrap_or_else(|error| panic!("{what}: {error}"));
        match message["id"].as_u64() {
            Some(id) => drop(self.answers.insert(id, message)),
            None => self.events.push(message),
        }
    }

    pub(crate) fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
        self.until("the page", "document.readyState === 'complete'");
    }

    /// The value of an expression of JavaScript.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The text of the first element that the selector finds.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        self.value(&format!("document.querySelector({}).innerText", json!(selector))).as_str().unwrap().to_owned()
    }

    pub(crate) fn until(&mut self, what: &str, condition: &str) {
        let deadline = Instant::now() + LIMIT;
        while self.value(condition) != true {
            assert!(Instant::now() < deadline, "not in time: {what}: {condition}\n{}", self.text("body"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// With the mouse.
    pub(crate) fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const at = document.querySelector({}); at.scrollIntoView({{ block: 'center' }}); \
             const {{ x, y, width, height }} = at.getBoundingClientRect(); return [x + width / 2, y + height / 2]; }})()",
            json!(selector)
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let parameters = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", parameters);
        }
    }

    /// With the keyboard, into what has the focus.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    pub(crate) fn look(&mut self, scheme: &str, width: u32, height: u32) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        let mobile = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        self.value("window.scrollTo(0, 0)");
    }

    pub(crate) fn screenshot(&mut self, file: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        let octets = base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(file, octets).unwrap();
    }

    /// Where requests went so far, and what the page complained of.
    pub(crate) fn requests_and_complaints(&mut self) -> (Vec<String>, Vec<String>) {
        self.value("0");
        let of = |method: &str| self.events.iter().filter(|event| event["method"] == method).collect::<Vec<_>>();
        let requests = of("Network.requestWillBeSent");
        let requests = requests.iter().map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned());
        let complaints = [of("Runtime.exceptionThrown"), of("Log.entryAdded")].concat();
        (requests.collect(), complaints.iter().map(ToString::to_string).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}
