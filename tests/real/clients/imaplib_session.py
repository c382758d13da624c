"""A session as a Python program has it; prints everything it was told. Arguments: port, user, password."""

import imaplib
import re
import sys

port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]


def show(name, result):
    text = repr(result).replace(user, "USER")
    text = re.sub(r" \(\d\.\d+ \+[^)]*secs\)", "", text)
    text = re.sub(r"(UIDVALIDITY|APPENDUID|COPYUID) \d+", r"\1 N", text)
    print(name, text)


imap = imaplib.IMAP4("127.0.0.1", port, timeout=30)
imap.login(user, password)
show("list", imap.list())
show("namespace", imap.namespace())
show("create", imap.create("Work"))
show("subscribe", imap.subscribe("Work"))
show("lsub", imap.lsub())
show("status", imap.status("INBOX", "(MESSAGES UNSEEN UIDNEXT)"))
show("select", imap.select("INBOX"))
show("search", imap.search(None, "SUBJECT", '"message"'))
show("uid search", imap.uid("SEARCH", "ALL"))
show("fetch", imap.fetch("1:3", "(FLAGS BODY[])"))
show("header", imap.fetch("4", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)] RFC822.SIZE)"))
show("store", imap.store("1", "+FLAGS", r"(\Flagged)"))
show("copy", imap.copy("1:2", "Work"))
show("sort", imap.sort("(REVERSE SUBJECT)", "UTF-8", "ALL"))
show("thread", imap.thread("REFERENCES", "UTF-8", "ALL"))
date = imaplib.Time2Internaldate(1704103200)
show("append", imap.append("Work", r"(\Seen)", date, b"Subject: appended\r\n\r\ntext {5}\r\n"))
show("append nowhere", imap.append("Nowhere", None, date, b"Subject: x\r\n\r\nx\r\n"))
show("store deleted", imap.store("2", "+FLAGS", r"(\Deleted)"))
show("expunge", imap.expunge())
show("noop", imap.noop())
show("check", imap.check())
show("unselect", imap.unselect())
show("select again", imap.select("Work", readonly=True))
show("fetch again", imap.fetch("1:*", "(UID FLAGS)"))
show("close", imap.close())
show("quota", imap.getquotaroot("INBOX"))
show("acl", imap.myrights("INBOX"))
try:
    show("select nothing", imap.select("No such mailbox"))
    show("fetch of nothing", imap.fetch("1", "(FLAGS)"))
except imaplib.IMAP4.error as error:
    show("error", str(error).partition("=>")[0])
show("rename", imap.rename("Work", "Done"))
show("delete", imap.delete("Done"))
show("logout", imap.logout()[0])

imap = imaplib.IMAP4("127.0.0.1", port, timeout=30)
try:
    imap.login(user, "wrong")
except imaplib.IMAP4.error:
    print("a wrong password is refused")
imap.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
show("select", imap.select("INBOX"))
show("logout", imap.logout()[0])
