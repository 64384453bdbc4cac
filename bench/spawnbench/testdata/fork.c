// fork N forks N children. Each writes a byte into a socket and waits for its end. It prints
// the time until all have written, and the processor time of all, in nanoseconds.
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long cpu(int who)
{
	struct rusage u;
	getrusage(who, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000LL +
	       (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000LL;
}

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 1, *sockets = calloc(n, sizeof *sockets);
	long long before = cpu(RUSAGE_SELF), began = now();
	for (int i = 0; i < n; i++) {
		int pair[2];
		char byte = 1;
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			return perror("socketpair"), 1;
		switch (fork()) {
		case -1:
			return perror("fork"), 1;
		case 0:
			for (int j = 0; j < i; j++)
				close(sockets[j]);
			close(pair[0]);
			if (write(pair[1], &byte, 1) != 1)
				_exit(1);
			_exit(read(pair[1], &byte, 1) != 0);
		}
		close(pair[1]);
		sockets[i] = pair[0];
	}
	for (int i = 0; i < n; i++) {
		char byte;
		if (read(sockets[i], &byte, 1) != 1)
			return fprintf(stderr, "a child has ended\n"), 1;
	}
	long long up = now() - began;
	for (int i = 0; i < n; i++)
		close(sockets[i]);
	for (int status; wait(&status) > 0;)
		if (status)
			return fprintf(stderr, "a child has failed\n"), 1;
	printf("%lld %lld\n", up, cpu(RUSAGE_SELF) + cpu(RUSAGE_CHILDREN) - before);
	return 0;
}
