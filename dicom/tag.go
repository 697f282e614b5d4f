package dicom

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// Tag names an attribute: group<<16 | element.
type Tag uint32

// The tags this project asks for by name.
const (
	TagTransferSyntaxUID             Tag = 0x00020010
	TagMediaStorageSOPClassUID       Tag = 0x00020002
	TagMediaStorageSOPInstanceUID    Tag = 0x00020003
	TagMetaGroupLength               Tag = 0x00020000
	TagSpecificCharacterSet          Tag = 0x00080005
	TagSOPClassUID                   Tag = 0x00080016
	TagSOPInstanceUID                Tag = 0x00080018
	TagStudyDate                     Tag = 0x00080020
	TagSeriesDate                    Tag = 0x00080021
	TagStudyTime                     Tag = 0x00080030
	TagSeriesTime                    Tag = 0x00080031
	TagAccessionNumber               Tag = 0x00080050
	TagIssuerOfAccessionNumber       Tag = 0x00080051
	TagModality                      Tag = 0x00080060
	TagInstitutionName               Tag = 0x00080080
	TagReferringPhysicianName        Tag = 0x00080090
	TagTimezoneOffsetFromUTC         Tag = 0x00080201
	TagStudyDescription              Tag = 0x00081030
	TagSeriesDescription             Tag = 0x0008103E
	TagPatientName                   Tag = 0x00100010
	TagPatientID                     Tag = 0x00100020
	TagIssuerOfPatientID             Tag = 0x00100021
	TagTypeOfPatientID               Tag = 0x00100022
	TagIssuerOfPatientIDQualifiers   Tag = 0x00100024
	TagPatientBirthDate              Tag = 0x00100030
	TagPatientSex                    Tag = 0x00100040
	TagOtherPatientIDs               Tag = 0x00101000
	TagOtherPatientIDsSequence       Tag = 0x00101002
	TagLocalNamespaceEntityID        Tag = 0x00400031
	TagUniversalEntityID             Tag = 0x00400032
	TagUniversalEntityIDType         Tag = 0x00400033
	TagIdentifierTypeCode            Tag = 0x00400035
	TagAssigningFacilitySequence     Tag = 0x00400036
	TagAssigningJurisdictionSequence Tag = 0x00400039
	TagBodyPartExamined              Tag = 0x00180015
	TagStudyInstanceUID              Tag = 0x0020000D
	TagSeriesInstanceUID             Tag = 0x0020000E
	TagStudyID                       Tag = 0x00200010
	TagSeriesNumber                  Tag = 0x00200011
	TagInstanceNumber                Tag = 0x00200013
	TagSamplesPerPixel               Tag = 0x00280002
	TagPhotometricInterpretation     Tag = 0x00280004
	TagNumberOfFrames                Tag = 0x00280008
	TagRows                          Tag = 0x00280010
	TagColumns                       Tag = 0x00280011
	TagBitsAllocated                 Tag = 0x00280100
	TagPixelRepresentation           Tag = 0x00280103
	TagExtendedOffsetTable           Tag = 0x7FE00001
	TagExtendedOffsetTableLengths    Tag = 0x7FE00002
	TagFloatPixelData                Tag = 0x7FE00008
	TagDoubleFloatPixelData          Tag = 0x7FE00009
	TagPixelData                     Tag = 0x7FE00010
	itemTag                          Tag = 0xFFFEE000
	itemDelimiter                    Tag = 0xFFFEE00D
	sequenceDelimiter                Tag = 0xFFFEE0DD
)

func (t Tag) Group() uint16   { return uint16(t >> 16) }
func (t Tag) Element() uint16 { return uint16(t) }

// Private reports whether a vendor, not the standard, defines the tag.
func (t Tag) Private() bool { return t.Group()%2 == 1 }

func (t Tag) String() string { return fmt.Sprintf("(%04X,%04X)", t.Group(), t.Element()) }

// Hex is the tag as DICOM JSON and DICOMweb write it: "00100020".
func (t Tag) Hex() string { return fmt.Sprintf("%08X", uint32(t)) }

// Keyword is the standard's keyword, "" for what the dictionary does not know.
func (t Tag) Keyword() string {
	if info, ok := t.lookup(); ok {
		return info.Keyword
	}
	return ""
}

// DictVR is the VR the dictionary gives, UN where it gives none. Where it
// leaves a choice the answer is the one of Implicit VR (PS3.5 A.1): OW before
// OB, US before SS.
func (t Tag) DictVR() VR { return t.dictVR(false) }

// dictVR is DictVR with Pixel Representation known: signed settles "US or SS".
func (t Tag) dictVR(signed bool) VR {
	switch {
	case t.Element() == 0:
		return UL
	case t.Private():
		if t.Element() >= 0x10 && t.Element() <= 0xFF {
			return LO // private creator, PS3.5 7.8.1
		}
		return UN
	}
	info, ok := t.lookup()
	if !ok || len(info.VRs) == 0 {
		return UN
	}
	var ow, us, ss bool
	for _, v := range info.VRs {
		switch VR(v) {
		case OW:
			ow = true
		case US:
			us = true
		case SS:
			ss = true
		}
	}
	switch {
	case ow:
		return OW
	case us && ss && signed:
		return SS
	case us:
		return US
	}
	vr := VR(info.VRs[0])
	if !vr.Known() {
		return UN
	}
	return vr
}

// lookup finds the dictionary's entry. Repeating groups (50xx, 60xx, 7Fxx) are
// listed there by their first group.
func (t Tag) lookup() (tag.Info, bool) {
	if t.Private() {
		return tag.Info{}, false
	}
	g := t.Group()
	switch g & 0xFF00 {
	case 0x5000, 0x6000:
		g &= 0xFF00
	case 0x7F00:
		if g != 0x7FE0 {
			g = 0x7F00
		}
	}
	info, err := tag.Find(tag.Tag{Group: g, Element: t.Element()})
	return info, err == nil
}

// ParseTag reads "00100020", "(0010,0020)", "0010,0020" or a keyword such as
// "PatientID".
func ParseTag(s string) (Tag, error) {
	hex := s
	if strings.HasPrefix(hex, "(") && strings.HasSuffix(hex, ")") {
		hex = hex[1 : len(hex)-1]
	}
	if len(hex) == 9 && hex[4] == ',' {
		hex = hex[:4] + hex[5:]
	}
	if len(hex) == 8 {
		if n, err := strconv.ParseUint(hex, 16, 32); err == nil {
			return Tag(n), nil
		}
	}
	if len(s) <= 64 {
		// The dictionary also answers to names ("Patient ID"), which are no keywords.
		if info, err := tag.FindByKeyword(s); s != "" && err == nil && info.Keyword == s {
			return Tag(info.Tag.Uint32()), nil
		}
	} else {
		s = s[:64] + "…"
	}
	return 0, fmt.Errorf("dicom: %q is neither a tag of eight hexadecimal digits nor a keyword of the standard", s)
}
