//! The Debian package: built, installed, run, upgraded, removed. On a copy of this host's files that nobody else
//! sees: a mount namespace with an overlay of memory over `/`, and network and process namespaces of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{find, folder, repository, skip, succeed};

/// Builds the package of this binary.
fn build(folder: &Path) -> Option<PathBuf> {
    for program in ["cargo-deb", "dpkg-shlibdeps"] {
        find(program)?;
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_imapool"));
    let profile = binary.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let profile = if profile == "debug" { "dev" } else { profile };
    let mut command = Command::new(find("cargo-deb")?);
    command.args(["--no-build", "--fast", "--profile", profile, "--deb-version", "1.0.0-1", "--output"]);
    succeed(command.arg(folder).current_dir(repository("")));
    let mut packages = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    packages.find(|file| file.extension().is_some_and(|extension| extension == "deb"))
}

/// Everything that is done with it, in a shell of its own.
const LIFE: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
test "$(id -u)" = 0
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root" "$1/next"
mount -t overlay none -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc none "$1/root/proc"
mount -t tmpfs none "$1/root/run"
mount -t tmpfs none "$1/root/tmp"
ip link set lo up
# An upgrade with another default in its configuration.
dpkg-deb -R "$2" "$1/next"
sed -i 's/^Version: .*/Version: 2.0.0-1/' "$1/next/DEBIAN/control"
sed -i 's/^checkout_timeout = .*/checkout_timeout = "11s"/' "$1/next/etc/imapool/imapool.toml"
dpkg-deb -Zgzip -z1 -b "$1/next" "$1/root/tmp/2.deb" >/dev/null
cp "$2" "$1/root/tmp/1.deb"
# No service is to start here.
printf '#!/bin/sh\nexit 101\n' >"$1/root/usr/sbin/policy-rc.d"
chmod 755 "$1/root/usr/sbin/policy-rc.d"
# Not chroot(1): what is in there is a system, with a shell.
exec chroot "$1/root" /bin/sh -eu -c '
say() { echo "== $*"; }
say install
dpkg -i /tmp/1.deb
getent passwd imapool
test "$(stat -c %U:%a /etc/imapool/imapool.toml)" = root:644
imapool --version
imapool check
for file in /usr/share/man/man1/imapool.1.gz /usr/share/man/man5/imapool.toml.5.gz /usr/share/bash-completion/completions/imapool \
    /lib/systemd/system/imapool.service /lib/systemd/system/imapool.socket /usr/share/doc/imapool/copyright; do
    test -s "$file" || test -s "/usr$file" || { echo "no $file"; exit 1; }
done

say run
unit=$(ls /lib/systemd/system/imapool.service /usr/lib/systemd/system/imapool.service 2>/dev/null | head -n 1)
start=$(sed -n "s/^ExecStart=//p" "$unit")
setpriv --reuid imapool --regid imapool --clear-groups --no-new-privs $start 2>/tmp/log &
pid=$!
tries=0
until curl -sf http://127.0.0.1:9143/healthz >/dev/null; do
    tries=$((tries + 1))
    if [ $tries = 200 ] || ! kill -0 $pid; then cat /tmp/log; exit 1; fi
    sleep 0.1
done
curl -sf http://127.0.0.1:9143/metrics | grep imapool_build_info
kill -TERM $pid
wait $pid

say upgrade
sed -i "s/^max_per_account = .*/max_per_account = 7/" /etc/imapool/imapool.toml
dpkg --force-confdef -i /tmp/2.deb
dpkg-query -W -f "\${Version}\n" imapool | grep -x 2.0.0-1
grep -x "max_per_account = 7" /etc/imapool/imapool.toml
if grep "11s" /etc/imapool/imapool.toml; then echo "the configuration was overwritten"; exit 1; fi

say remove
dpkg -r imapool
test ! -e /usr/bin/imapool
test -e /etc/imapool/imapool.toml
say purge
dpkg -P imapool
test ! -e /etc/imapool/imapool.toml
if getent passwd imapool; then echo "its user is left"; exit 1; fi
for left in $(find / -xdev -name "*imapool*" -newer /tmp/1.deb -not -path "/tmp/*" -not -path "/proc/*" \
    -path "/[elu]*" 2>/dev/null | grep -E "^/(etc|lib|usr)/"); do
    echo "left behind: $left"; exit 1
done
say done
'
"#;

#[test]
fn it_is_installed_run_upgraded_and_removed() {
    let folder = folder();
    let Some(package) = build(folder.path()) else { return };
    let contents = succeed(Command::new("dpkg-deb").arg("--contents").arg(&package));
    assert!(contents.contains("./etc/imapool/imapool.toml"), "{contents}");
    // The socket stays open through an upgrade: nothing but a removal stops or restarts it.
    let scripts = folder.path().join("scripts");
    succeed(Command::new("dpkg-deb").arg("--control").arg(&package).arg(&scripts));
    let script = |name: &str| std::fs::read_to_string(scripts.join(name)).unwrap();
    let orders = script("postinst");
    let mut orders = orders.lines().filter(|line| line.contains("deb-systemd-invoke"));
    assert!(orders.all(|line| !line.contains("imapool.socket")), "{}", script("postinst"));
    assert!(script("prerm").contains("[ \"$1\" = remove ]"), "{}", script("prerm"));
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can install a package");
    }
    let room = folder.path().join("room");
    std::fs::create_dir(&room).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", LIFE, "sh"]);
    let text = succeed(command.arg(&room).arg(&package));
    assert!(text.ends_with("== done\n"), "{text}");
}
