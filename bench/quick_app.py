"""An application that starts at once: a loop over bare sockets. Health and every other path get the same answer.

With BAD in its environment every second request that is none for its health gets a 500.
"""

import os
import select
import socket


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), backlog=256)
    body = b'{"status": "ok", "version": "%s"}' % os.environ.get("VERSION", "").encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    failure = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    bad, asked = bool(os.environ.get("BAD")), 0
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    open_now: dict[int, socket.socket] = {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection, _ = listener.accept()
                open_now[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            connection = open_now[number]
            try:
                received = connection.recv(65536)
                if received:
                    # The requests of a bench are short and come one by one: each arrives whole.
                    business = not received.startswith(b"GET /health")
                    asked += business
                    connection.sendall(failure if bad and business and asked % 2 else head + body)
                    continue
            except OSError:
                pass
            poll.unregister(number)
            open_now.pop(number).close()


if __name__ == "__main__":
    main()
