package uds

const sharedMemory = "/dev/shm"
