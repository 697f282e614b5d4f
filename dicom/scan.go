package dicom

import "io"

func scan(r io.Reader, lim Limits, h Handler) (*Instance, error) { return nil, ErrNotDICOM }

func newInflater(r io.Reader, lim Limits) io.Reader { return r }
