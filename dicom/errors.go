package dicom

import (
	"errors"
	"fmt"
)

var (
	// ErrNotDICOM: the bytes do not begin as any form of DICOM does.
	ErrNotDICOM = errors.New("dicom: not a DICOM instance: no DICM mark and no readable first attribute; check that the right file was sent")
	// ErrTruncated: the instance ends before what it announced. What wraps it
	// says where.
	ErrTruncated = errors.New("dicom: instance is cut short; send it again from its source")
	// ErrMediaDirectory: a DICOMDIR, which lists instances and is none.
	ErrMediaDirectory = errors.New("dicom: this is a media directory (DICOMDIR), not an instance; send the files it lists")
	// ErrBusy: Limits.Budget has no room now. Nothing is wrong with the instance.
	ErrBusy = errors.New("dicom: the instances that are being received take all the memory set aside for their headers; send it again shortly")
)

// ErrMissingUID: an instance without this UID cannot be filed.
type ErrMissingUID struct{ Tag Tag }

func (e ErrMissingUID) Error() string {
	return fmt.Sprintf("dicom: no %s %v; an instance cannot be filed without it; correct it at its source and send it again", e.Tag.Keyword(), e.Tag)
}

// ErrLimit: the instance asks for more than a reader is willing to give.
type ErrLimit struct {
	What  string // the field of Limits
	Limit int64
}

func (e ErrLimit) Error() string {
	return fmt.Sprintf("dicom: instance exceeds the limit %s = %d; if it is genuine, raise the limit and send it again", e.What, e.Limit)
}

// ErrMalformed: the bytes at Offset cannot be what the encoding requires.
type ErrMalformed struct {
	Offset int64 // in the instance, or in the inflated stream of a deflated one
	Tag    Tag   // the attribute being read, 0 when none yet
	Why    string
}

func (e ErrMalformed) Error() string {
	return fmt.Sprintf("dicom: malformed at byte %d, attribute %v: %s; the file is damaged or its writer is at fault; send it again from its source", e.Offset, e.Tag, e.Why)
}
