/*
 * The floor below Go: the same work between two C processes, with write(2) and
 * read(2) on a Unix socket, or through two rings in shared memory with futex(2).
 *
 *	floor trip|stream SIZE socket|ring
 *
 * The program forks. The parent reads a number n from stdin. It does n round
 * trips, or sends n messages and waits for the receiver's report. Then it writes
 * the total time in ns to stdout, followed by the time of each round trip, or by
 * the receiver's count and checksum. All numbers are uint64 in native byte order.
 * The parent exits at EOF on stdin, and the child exits with it. payload.go
 * defines payload and report.
 */
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const uint64_t tail = 0x5350574e53505752, end_of_stream = UINT64_MAX;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void write_all(int fd, const void *p, size_t n)
{
	while (n > 0) {
		ssize_t k = write(fd, p, n);
		if (k < 0) {
			if (errno == EINTR)
				continue;
			fail("write");
		}
		p = (const char *)p + k;
		n -= (size_t)k;
	}
}

/* read_all returns 0 at the end of the file. */
static int read_all(int fd, void *p, size_t n)
{
	while (n > 0) {
		ssize_t k = read(fd, p, n);
		if (k == 0)
			return 0;
		if (k < 0) {
			if (errno == EINTR)
				continue;
			if (errno == ECONNRESET)
				return 0;
			fail("read");
		}
		p = (char *)p + k;
		n -= (size_t)k;
	}
	return 1;
}

/* A ring has the bytes of one direction. Positions count them. A side that has nothing to
 * do says so in its word waits, and sleeps until the other side has cleared it. A late
 * wake-up for an earlier sleep ends this one too early, and then it is repeated. */
enum { ring_size = 256 << 10 };
struct ring {
	_Alignas(64) _Atomic uint32_t written, writer_waits;
	_Alignas(64) _Atomic uint32_t read, reader_waits;
	_Alignas(64) unsigned char bytes[ring_size];
};
static struct ring *to, *from; /* NULL with a socket */

static void sleep_while(_Atomic uint32_t *position, uint32_t seen, _Atomic uint32_t *waits)
{
	atomic_store(waits, 1);
	if (atomic_load(position) == seen)
		syscall(SYS_futex, waits, FUTEX_WAIT, 1, NULL, NULL, 0);
	atomic_store(waits, 0);
}

static void advance(_Atomic uint32_t *position, uint32_t n, _Atomic uint32_t *waits)
{
	atomic_fetch_add(position, n);
	if (atomic_exchange(waits, 0)) /* one wake-up for each sleep */
		syscall(SYS_futex, waits, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void send_all(int fd, const void *p, size_t n)
{
	if (!to) {
		write_all(fd, p, n);
		return;
	}
	while (n > 0) {
		uint32_t read = atomic_load(&to->read), at = to->written % ring_size;
		size_t k = ring_size - (to->written - read);
		if (k > n)
			k = n;
		if (k > ring_size - at)
			k = ring_size - at;
		if (k == 0) {
			sleep_while(&to->read, read, &to->writer_waits);
			continue;
		}
		memcpy(to->bytes + at, p, k);
		advance(&to->written, (uint32_t)k, &to->reader_waits);
		p = (const char *)p + k;
		n -= k;
	}
}

static int receive_all(int fd, void *p, size_t n)
{
	if (!from)
		return read_all(fd, p, n);
	while (n > 0) {
		uint32_t written = atomic_load(&from->written), at = from->read % ring_size;
		size_t k = written - from->read;
		if (k > n)
			k = n;
		if (k > ring_size - at)
			k = ring_size - at;
		if (k == 0) {
			sleep_while(&from->written, written, &from->reader_waits);
			continue;
		}
		memcpy(p, from->bytes + at, k);
		advance(&from->read, (uint32_t)k, &from->writer_waits);
		p = (char *)p + k;
		n -= k;
	}
	return 1;
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void serve(int fd, int trip, unsigned char *buf, size_t size)
{
	uint64_t report[2] = {0, 0}, number, last;

	while (receive_all(fd, buf, size)) {
		if (trip) {
			send_all(fd, buf, size);
			continue;
		}
		memcpy(&number, buf, 8);
		if (number == end_of_stream) {
			send_all(fd, report, sizeof report);
			report[0] = report[1] = 0;
			continue;
		}
		memcpy(&last, buf + size - 8, 8);
		report[0]++;
		report[1] += number + last + size;
	}
}

int main(int argc, char **argv)
{
	int pair[2], trip;
	size_t size;
	unsigned char *out, *in;
	uint64_t n, number = 0, report[2], *each = NULL;

	if (argc != 4)
		return 2;
	trip = strcmp(argv[1], "trip") == 0;
	size = strtoul(argv[2], NULL, 10);
	if (size < 16)
		return 2;
	out = calloc(1, size);
	in = calloc(1, size);
	if (!out || !in)
		fail("calloc");
	memcpy(out + size - 8, &tail, 8);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		fail("socketpair");
	if (strcmp(argv[3], "ring") == 0) {
		to = mmap(NULL, 2 * sizeof *to, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (to == MAP_FAILED)
			fail("mmap");
		from = to + 1;
	}
	switch (fork()) {
	case -1:
		fail("fork");
	case 0:
		close(pair[0]);
		close(0);
		close(1);
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* in a ring it does not see the end */
		if (to) {
			from = to;
			to++;
		}
		serve(pair[1], trip, in, size);
		return 0;
	}
	close(pair[1]);
	while (read_all(0, &n, sizeof n)) {
		uint64_t i, start, last, took;

		if (trip) {
			each = realloc(each, n * sizeof *each);
			if (!each)
				fail("realloc");
		}
		start = last = now();
		for (i = 0; i < n; i++) {
			if (!trip) {
				memcpy(out, &i, 8);
				send_all(pair[0], out, size);
				continue;
			}
			number++;
			memcpy(out, &number, 8);
			send_all(pair[0], out, size);
			if (!receive_all(pair[0], in, size) || memcmp(in, out, 8) != 0) {
				fprintf(stderr, "floor: a round trip's answer is not what was sent\n");
				return 1;
			}
			took = now();
			each[i] = took - last;
			last = took;
		}
		if (!trip) {
			memcpy(out, &end_of_stream, 8);
			send_all(pair[0], out, size);
			if (!receive_all(pair[0], report, sizeof report)) {
				fprintf(stderr, "floor: the receiver is gone\n");
				return 1;
			}
		}
		took = now() - start;
		write_all(1, &took, sizeof took);
		if (trip)
			write_all(1, each, n * sizeof *each);
		else
			write_all(1, report, sizeof report);
	}
	return 0;
}
