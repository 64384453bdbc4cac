#!/usr/bin/env python3
"""Two programs that share a key and did not spawn each other:

    peer.py accept ADDRESS KEYFILE            accepts one peer and sends back each of its messages
    peer.py dial ADDRESS KEYFILE [TEXT...]    sends each text and prints what comes back

An address is uds:///path, uds://@name or tcp://127.0.0.1:port. The file has the key, at least 16 bytes.
"""
import os, socket, sys
import spawnwire


def listen(address):
    """Returns a listening socket and its address. The address has the port that the kernel chose."""
    scheme, target, _ = spawnwire.split(address)
    if scheme == "uds":
        os.umask(0o077)  # only this user can connect
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(target)
    elif scheme == "tcp":
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        listener = socket.create_server(target, family=family)
        address = address.rpartition(":")[0] + f":{listener.getsockname()[1]}"
    else:
        raise ValueError("peers listen on uds and tcp")
    listener.listen()
    return listener, address


def accept(address, key):
    listener, address = listen(address)
    print("listening on", address, flush=True)
    try:
        sock, _ = listener.accept()
    finally:
        listener.close()
        if address.startswith("uds:///"):
            os.unlink(address[len("uds://"):])
    channel, who = spawnwire.peer(sock, key, dialer=False)
    print("accepted", who["name"], flush=True)
    try:
        while True:
            channel.send(channel.recv())
    except spawnwire.Goodbye:
        channel.close()


def dial(address, key, texts):
    channel, who = spawnwire.peer(spawnwire.dial(address), key, dialer=True)
    print("connected to", who["name"], flush=True)
    for text in texts:
        channel.send(text)
        print(channel.recv(), flush=True)
    channel.close()


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("accept", "dial"):
        sys.exit(__doc__)
    try:
        with open(sys.argv[3], "rb") as f:
            key = f.read()
        accept(sys.argv[2], key) if sys.argv[1] == "accept" else dial(sys.argv[2], key, sys.argv[4:])
    except (spawnwire.Gone, spawnwire.Failed, spawnwire.ProtocolError, OSError, ValueError) as e:
        sys.exit(f"peer.py: {e}")
