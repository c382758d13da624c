# Logs in, and tells how many messages INBOX has. The exit status is 67 where it is refused, as curl's is.
import imaplib
import sys

port, user, password = sys.argv[1:]
client = imaplib.IMAP4("127.0.0.1", int(port), timeout=30)
try:
    client.login(user, password)
except imaplib.IMAP4.error as refusal:
    print(refusal)
    sys.exit(67)
print("MESSAGES", client.select("INBOX")[1][0].decode())
client.logout()
