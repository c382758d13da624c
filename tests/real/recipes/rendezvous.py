# Which backend of a group each account goes to, after what docs/routing.md says of it, and nothing else.
import hashlib
import math
import sys

weights, accounts = sys.argv[1].split(","), sys.argv[2:]
weights = [(name, int(weight)) for name, weight in (pair.split("=") for pair in weights)]


def score(name, weight, account):
    digest = hashlib.sha256(name.encode() + b"\0" + account.encode()).digest()
    h = ((int.from_bytes(digest[:8], "big") >> 11) + 1) / 2**53
    return math.inf if h == 1 else weight / -math.log(h)


for account in accounts:
    print(max(weights, key=lambda backend: score(*backend, account))[0])
