//go:build !linux

package cas

import "os"

func syncData(f *os.File) error { return f.Sync() }
