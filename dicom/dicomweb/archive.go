package dicomweb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/priormesh/priormesh/dicom"
)

// Archive is what the handler serves. Its methods are called by many requests
// at once. The errors they may return by name are those of this file; anything
// else is answered with 500 and logged.
type Archive interface {
	// Query finds studies, series or instances.
	Query(context.Context, Query) (Result, error)

	// Objects gives the instances that Ref names, in reading order: a study, a
	// series, or one instance. It may block while instances are still on their
	// way here. An error ends the sequence. ErrNotFound, ErrGone and
	// *Unavailable as the first yield become 404, 410 and 503; an error after an
	// Object breaks the response off, so that nobody takes a part for the whole.
	//
	// An empty sequence counts as ErrNotFound.
	Objects(context.Context, Ref) iter.Seq2[Object, error]

	// Headers is Objects where nothing but the headers will be read.
	Headers(context.Context, Ref) iter.Seq2[Object, error]

	// Store takes one instance, to the end of r. What it returns is called once,
	// from any goroutine, and gives the outcome: without an error the instance is
	// durable then. Between the two the handler reads the next instance.
	// Where study is set, an instance of another study is *Refused with
	// CodeWrongStudy. Beside an error Stored carries the UIDs as far as they
	// became known, for the response to name.
	Store(ctx context.Context, study dicom.UID, r io.Reader) func() (Stored, error)

	// Completeness says what answers lack: one text for each trust not heard
	// from, empty when nothing is missing. Each becomes a Warning header.
	// Of a study that Ref names they also say what of it is not given.
	Completeness(context.Context, Ref) []string
}

// Ref names a study, a series of it, or an instance of that.
type Ref struct{ Study, Series, Instance dicom.UID }

// Level is what a search returns.
type Level uint8

const (
	Studies Level = iota
	Series
	Instances
)

// Query is a search.
type Query struct {
	Level Level
	// Ref is what the path says: Study and Series narrow a search for series or
	// instances. They are not repeated in Match.
	Ref   Ref
	Match []Match // all must match; see Matches
	// Include says which attributes are asked for beyond the required ones. The
	// handler drops what was not asked for, so an Archive may return more.
	Include Include
	// Fuzzy asks for person names to match as people write them. An Archive that
	// cannot says so in Result.Warnings.
	Fuzzy         bool
	Limit, Offset int // Limit is never 0
}

// Include is the includefield parameter.
type Include struct {
	All   bool
	Paths [][]dicom.Tag
}

// Result is what a search found.
type Result struct {
	// Datasets are the matches from Offset on, at most Limit, newest first, in an
	// order that stays the same from page to page. RetrieveURL is the handler's to add.
	Datasets []dicom.Dataset
	// More says that there are matches after these.
	More bool
	// Warnings are told to the client beside Completeness: a match attribute that
	// could not be honoured, say.
	Warnings []string
}

// Object is one instance.
type Object interface {
	UIDs() dicom.UIDs
	Size() int64
	// Open gives the instance's bytes. Reading blocks while they are on their way.
	Open(context.Context) (io.ReadSeekCloser, error)
	// Layout says where the frames are, where that is known already. Nil makes
	// the handler read the instance for it.
	Layout() *Layout
}

// Layout says where an instance's header and frames are. Of an instance that is
// deflated or big endian it is not asked.
type Layout struct {
	HeaderLen    int64       // bytes before the Pixel Data element
	Pixels       bool        // whether there is one; the rest counts only then
	Value        dicom.Range // of the Pixel Data element, as dicom.PixelData.Value
	Encapsulated bool
	NumFrames    int
	Frame        func(i int) (dicom.Frame, error) // from 0
}

// Stored is what became of an instance.
type Stored struct {
	UIDs dicom.UIDs
	// Duplicate says that these very bytes were here already, which is success.
	Duplicate bool
}

var (
	// ErrNotFound: nothing is known by that name.
	ErrNotFound = errors.New("no such study, series or instance is known here; check the UIDs, or search first")
	// ErrGone: it was here and has been erased or rejected.
	ErrGone = errors.New("this has been erased or withdrawn and will not come back")
	// ErrNoSpace: there is no room to store more.
	ErrNoSpace = errors.New("no space left to store instances; nothing of this one was kept; free space, then send it again")
)

// BadQuery says that a search cannot be carried out as it is asked.
type BadQuery struct{ Reason string }

func (e *BadQuery) Error() string { return e.Reason }

// Unavailable says that something exists but cannot be had now.
type Unavailable struct {
	Reason     string        // why, and what to do, for the person who asked
	RetryAfter time.Duration // when to ask again; 0: not known
}

func (u *Unavailable) Error() string { return u.Reason }

// Conflict says that a SOP Instance UID is taken by other bytes. What was
// stored first is kept.
type Conflict struct{ Instance dicom.UID }

func (c *Conflict) Error() string {
	return fmt.Sprintf("SOP Instance UID %s is already stored with different bytes; the first is kept, this one refused; "+
		"find out which is right and give the other a UID of its own", c.Instance.Short())
}

// Code is a Failure Reason (0008,1197), PS3.18 I.2.2 and PS3.4 GG.4.2.
type Code uint16

const (
	CodeProcessingFailure Code = 0x0110
	CodeDuplicate         Code = 0x0111 // duplicate SOP instance: the UID is taken by other bytes
	CodeNotAuthorized     Code = 0x0124
	CodeOutOfResources    Code = 0xA700
	CodeWrongStudy        Code = 0xA900 // dataset does not match: sent to another study's address
	CodeCannotUnderstand  Code = 0xC000
)

// Refused says that an instance will not be taken as it is.
type Refused struct {
	Reason string // why, and what to do; shown to the sender
	Code   Code
}

func (r *Refused) Error() string { return r.Reason }
