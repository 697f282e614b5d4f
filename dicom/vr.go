package dicom

// VR is a value representation, PS3.5 6.2.
type VR string

const (
	AE VR = "AE"
	AS VR = "AS"
	AT VR = "AT"
	CS VR = "CS"
	DA VR = "DA"
	DS VR = "DS"
	DT VR = "DT"
	FD VR = "FD"
	FL VR = "FL"
	IS VR = "IS"
	LO VR = "LO"
	LT VR = "LT"
	OB VR = "OB"
	OD VR = "OD"
	OF VR = "OF"
	OL VR = "OL"
	OV VR = "OV"
	OW VR = "OW"
	PN VR = "PN"
	SH VR = "SH"
	SL VR = "SL"
	SQ VR = "SQ"
	SS VR = "SS"
	ST VR = "ST"
	SV VR = "SV"
	TM VR = "TM"
	UC VR = "UC"
	UI VR = "UI"
	UL VR = "UL"
	UN VR = "UN"
	UR VR = "UR"
	US VR = "US"
	UT VR = "UT"
	UV VR = "UV"
)

// kinds of value
const (
	isText   = 1 << iota // characters of Specific Character Set
	isString             // characters, whichever
	isSingle             // a backslash is no delimiter
	isInt
	isFloat
	isBinary
	isLong // 32-bit length in Explicit VR, PS3.5 7.1.2
)

type vrInfo struct {
	vr    VR
	kind  int
	width int // bytes a number takes, for putting it into little endian
}

var vrs = func() map[VR]vrInfo {
	m := make(map[VR]vrInfo)
	add := func(kind, width int, names ...VR) {
		for _, v := range names {
			m[v] = vrInfo{v, kind, width}
		}
	}
	add(isString, 0, AE, AS, CS, DA, DS, DT, IS, TM, UI)
	add(isString|isText, 0, LO, PN, SH)
	add(isString|isText|isSingle, 0, LT, ST)
	add(isString|isText|isSingle|isLong, 0, UT)
	add(isString|isText|isLong, 0, UC)
	add(isString|isSingle|isLong, 0, UR)
	add(isInt, 2, AT, SS, US) // AT is two numbers of two bytes
	add(isInt, 4, SL, UL)
	add(isInt|isLong, 8, SV, UV)
	add(isFloat, 4, FL)
	add(isFloat, 8, FD)
	add(isBinary|isLong, 1, OB, UN)
	add(isBinary|isLong, 2, OW)
	add(isBinary|isLong, 4, OF, OL)
	add(isBinary|isLong, 8, OD, OV)
	add(isLong, 0, SQ)
	return m
}()

// Known reports whether the standard defines the VR.
func (v VR) Known() bool { _, ok := vrs[v]; return ok }

// IsString reports VRs whose value is characters, AE to UT.
func (v VR) IsString() bool { return vrs[v].kind&isString != 0 }

// IsText reports the VRs that Specific Character Set governs, PS3.5 6.1.2.3.
func (v VR) IsText() bool { return vrs[v].kind&isText != 0 }

// IsSingle reports the string VRs in which a backslash is text, not a delimiter.
func (v VR) IsSingle() bool { return vrs[v].kind&isSingle != 0 }

// IsInt reports binary whole numbers: AT, SL, SS, SV, UL, US, UV.
func (v VR) IsInt() bool { return vrs[v].kind&isInt != 0 }

// IsFloat reports binary fractions: FD, FL.
func (v VR) IsFloat() bool { return vrs[v].kind&isFloat != 0 }

// IsBinary reports OB, OD, OF, OL, OV, OW and UN, which DICOM JSON writes in base64.
func (v VR) IsBinary() bool { return vrs[v].kind&isBinary != 0 }

func (v VR) long() bool { return vrs[v].kind&isLong != 0 }
