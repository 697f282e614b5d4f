//go:build !linux

package mesh

func setUnsent(uintptr) {}
