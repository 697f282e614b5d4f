package dicom

type charset struct{}
