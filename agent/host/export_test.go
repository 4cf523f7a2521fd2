package host

var ErrUnkillable = errUnkillable
