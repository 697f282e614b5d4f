package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// forget gives back what the page cache has of the files in a folder, so that who reads them reads the disk.
func forget(dir string) error {
	syscall.Sync()
	return eachFile(dir, func(f *os.File) error {
		return os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	})
}
