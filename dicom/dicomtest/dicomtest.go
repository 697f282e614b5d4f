// Package dicomtest makes small DICOM instances for tests. What it writes is
// as plain as DICOM gets (Explicit VR Little Endian, Part 10); files with the
// habits of real modalities are in the test data, not made here.
package dicomtest

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"github.com/priormesh/priormesh/dicom"
)

// Instance describes an instance. Empty fields are left out of it.
type Instance struct {
	Study, Series, SOP          string
	PatientID, Issuer, Name     string
	OtherID                     string // of issuer "TEST", in Other Patient IDs Sequence
	BirthDate, Sex              string
	Date, Modality, Description string
	Time, Accession, Referring  string
	Number                      int
	Frames                      int // native 8-bit frames of 64 x 64
	Fill                        byte
}

// Side is how many rows and columns a frame has.
const Side = 64

// CT is the SOP class of what Bytes writes.
const CT dicom.UID = "1.2.840.10008.5.1.4.1.1.2"

// Bytes writes the instance.
func (i Instance) Bytes() []byte {
	var e []dicom.Element
	text := func(t dicom.Tag, v string) {
		if v != "" {
			e = append(e, dicom.Element{Tag: t, VR: t.DictVR(), Value: []byte(v)})
		}
	}
	number := func(t dicom.Tag, v uint16) {
		e = append(e, dicom.Element{Tag: t, VR: dicom.US, Value: binary.LittleEndian.AppendUint16(nil, v)})
	}
	text(dicom.TagSpecificCharacterSet, "ISO_IR 192")
	text(dicom.TagSOPClassUID, string(CT))
	text(dicom.TagSOPInstanceUID, i.SOP)
	text(dicom.TagStudyDate, i.Date)
	text(dicom.TagStudyTime, i.Time)
	text(dicom.TagAccessionNumber, i.Accession)
	text(dicom.TagModality, i.Modality)
	text(dicom.TagReferringPhysicianName, i.Referring)
	text(dicom.TagStudyDescription, i.Description)
	text(dicom.TagPatientName, i.Name)
	text(dicom.TagPatientID, i.PatientID)
	text(dicom.TagIssuerOfPatientID, i.Issuer)
	text(dicom.TagPatientBirthDate, i.BirthDate)
	text(dicom.TagPatientSex, i.Sex)
	if i.OtherID != "" {
		item := dicom.Dataset{Elements: []dicom.Element{
			{Tag: dicom.TagPatientID, VR: dicom.LO, Value: []byte(i.OtherID)},
			{Tag: dicom.TagIssuerOfPatientID, VR: dicom.LO, Value: []byte("TEST")},
		}}
		e = append(e, dicom.Element{Tag: dicom.TagOtherPatientIDsSequence, VR: dicom.SQ, Items: []dicom.Dataset{item}})
	}
	text(dicom.TagStudyInstanceUID, i.Study)
	text(dicom.TagSeriesInstanceUID, i.Series)
	if i.Number != 0 {
		text(dicom.TagInstanceNumber, strconv.Itoa(i.Number))
	}
	if i.Frames > 0 {
		number(dicom.TagSamplesPerPixel, 1)
		text(dicom.TagPhotometricInterpretation, "MONOCHROME2")
		text(dicom.TagNumberOfFrames, strconv.Itoa(i.Frames))
		number(dicom.TagRows, Side)
		number(dicom.TagColumns, Side)
		number(dicom.TagBitsAllocated, 8)
		number(dicom.TagPixelRepresentation, 0)
		pixels := make([]byte, i.Frames*Side*Side)
		for j := range pixels {
			pixels[j] = i.Fill + byte(j/(Side*Side)) + byte(j)
		}
		e = append(e, dicom.Element{Tag: dicom.TagPixelData, VR: dicom.OB, Value: pixels})
	}
	meta := dicom.Dataset{Elements: []dicom.Element{
		{Tag: dicom.TagMediaStorageSOPClassUID, VR: dicom.UI, Value: []byte(CT)},
		{Tag: dicom.TagMediaStorageSOPInstanceUID, VR: dicom.UI, Value: []byte(i.SOP)},
		{Tag: dicom.TagTransferSyntaxUID, VR: dicom.UI, Value: []byte(dicom.ExplicitVRLittleEndian)},
	}}
	var out bytes.Buffer
	out.Write(make([]byte, 128))
	out.WriteString("DICM")
	out.Write(write(meta))
	out.Write(write(dicom.Dataset{Elements: e}))
	return out.Bytes()
}

// write encodes by itself: a test that used the encoder of the package under
// test would not see both being wrong.
func write(d dicom.Dataset) []byte {
	var b []byte
	for _, e := range d.Elements {
		v := e.Value
		for _, item := range e.Items {
			b := write(item)
			v = binary.LittleEndian.AppendUint32(append(v, 0xFE, 0xFF, 0x00, 0xE0), uint32(len(b)))
			v = append(v, b...)
		}
		if len(v)%2 == 1 {
			pad := byte(' ')
			if e.VR == dicom.UI || e.VR == dicom.OB {
				pad = 0
			}
			v = append(bytes.Clone(v), pad)
		}
		b = binary.LittleEndian.AppendUint16(b, e.Tag.Group())
		b = binary.LittleEndian.AppendUint16(b, e.Tag.Element())
		b = append(b, e.VR...)
		if e.VR == dicom.OB || e.VR == dicom.SQ {
			b = append(b, 0, 0)
			b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
		} else {
			b = binary.LittleEndian.AppendUint16(b, uint16(len(v)))
		}
		b = append(b, v...)
	}
	return b
}
