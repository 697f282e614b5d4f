//go:build linux || darwin

package cas

import (
	"os"
	"syscall"
)

// freeSpace is how many bytes this process may still write to the file
// system that dir is on.
func freeSpace(dir *os.File) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, err
	}
	return int64(min(st.Bavail, 1<<40)) * int64(st.Bsize), nil
}
