//! A folder with a configuration, certificates made for the test, and the program run there.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// Longer than any of these commands may take, whatever is done to it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What the certificates are for.
pub(crate) const NAME: &str = "mail.example.org";

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |octets| String::from_utf8(octets).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

pub(crate) struct Place {
    folder: TempDir,
    authority: Issuer<'static, KeyPair>,
}

impl Place {
    /// With `ca.pem`, `cert.pem` and `key.pem` for the next 60 days.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let this = Self { folder, authority: Issuer::new(params, key) };
        this.issue(-10, 60);
        this
    }

    /// Another `cert.pem` and `key.pem`, good from and until so many days from now.
    pub(crate) fn issue(&self, from: i64, until: i64) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let day = |days: i64| {
            let at = now.checked_add_signed(days * 24 * 60 * 60).unwrap();
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at)
        };
        (params.not_before, params.not_after) = (day(from), day(until));
        self.write("cert.pem", params.signed_by(&key, &self.authority).unwrap().pem());
        self.write("key.pem", key.serialize_pem());
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(file), text).unwrap();
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    /// In this folder, with nothing in the environment that it goes by; ended if it takes too long.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(env!("CARGO_BIN_EXE_imapool")).args(arguments);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        for variable in ["RUST_LOG", "IMAPOOL_ADMIN", "IMAPOOL_ADMIN_TOKEN", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET"] {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.command(arguments).output().unwrap().into()
    }

    /// Checks this configuration.
    pub(crate) fn check(&self, text: impl AsRef<[u8]>, more: &[&str]) -> Done {
        self.write("imapool.toml", text);
        self.run(&[&["check", "-c", "imapool.toml"], more].concat())
    }
}
