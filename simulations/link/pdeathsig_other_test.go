//go:build !linux

package link_test

import "syscall"

func endWithParent() *syscall.SysProcAttr { return nil }
