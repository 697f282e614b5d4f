package main

import "context"

func (b *bench) space(ctx context.Context) error { return nil }
func (b *bench) idle(ctx context.Context) error  { return nil }
